// The extension module: loading it registers the kernels of cpu/ and cuda/ with the torch library `intarsia`, whose
// schemas stand in server/intarsia_server/ops/library.py. What is not a tensor operator is bound here.
// Some versions of torch's pybind11 refuse to be compiled for the stable ABI; nothing here is of that ABI.
#undef TORCH_TARGET_VERSION
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  std::vector<std::string> devices{"cpu"};
#ifdef INTARSIA_CUDA
  devices.emplace_back("cuda");
#endif
  info["devices"] = devices;
  info["cuda_architectures"] = INTARSIA_CUDA_ARCHITECTURES;
  info["torch"] = INTARSIA_BUILT_WITH_TORCH;
  info["compiler"] = __VERSION__;
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Compiled masked Gram matrices and total variation";
  m.def("build_info", &build_info, "Devices served, CUDA architectures, torch and compiler of the build.");
}
