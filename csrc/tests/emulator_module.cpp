// The emulator and the kernels on it, as the Python module `_emulator` for tests/csrc.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "kernel_runs.h"

namespace py = pybind11;

namespace intarsia {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// What one thread of a program does, one instruction after the other; (name, x, y), see run_instruction.
using Instruction = std::tuple<std::string, int64_t, int64_t>;

struct Program {
  const std::vector<std::vector<Instruction>>* instructions;  // per thread
  const float* memory;
  std::vector<std::vector<float>>* results;  // per thread: all it has loaded
};

void run_instruction(const Instruction& instruction, const float* memory, std::vector<float>& results) {
  const auto& [name, x, y] = instruction;
  float* shared = shared_memory<float>();
  if (name == "store") {
    shared[x] = static_cast<float>(y);
  } else if (name == "load") {
    results.push_back(shared[x]);
  } else if (name == "copy_4") {
    cp_async<4>(shared + x, memory + y, true);
  } else if (name == "copy_8") {
    cp_async<8>(shared + x, memory + y, true);
  } else if (name == "copy_16") {
    cp_async<16>(shared + x, memory + y, true);
  } else if (name == "zero_4") {
    cp_async<4>(shared + x, memory + y, false);
  } else if (name == "zero_16") {
    cp_async<16>(shared + x, memory + y, false);
  } else if (name == "commit") {
    cp_async_commit();
  } else if (name == "wait_0") {
    cp_async_wait<0>();
  } else if (name == "wait_1") {
    cp_async_wait<1>();
  } else if (name == "wait_2") {
    cp_async_wait<2>();
  } else if (name == "barrier") {
    barrier();
  } else if (name == "other_barrier") {
    barrier();
  } else if (name == "warp_sum") {
    results.push_back(warp_sum(static_cast<float>(x)));
  } else if (name == "ldmatrix") {
    uint32_t registers[4];
    ldmatrix_x4(registers, shared + x);
    results.push_back(emulator::bits_to_float(registers[0]));
  } else {
    emulator::device.fail(Location::current(), "no instruction " + name);
  }
}

void program_kernel(Program program) {
  const unsigned thread = thread_index().x;
  for (const Instruction& instruction : (*program.instructions)[thread])
    run_instruction(instruction, program.memory, (*program.results)[thread]);
}

std::vector<std::vector<float>> run_program(const std::vector<std::vector<Instruction>>& instructions,
                                            const Array<float>& memory, size_t shared_bytes, uint64_t seed) {
  emulator::GlobalBuffer buffer("memory", static_cast<size_t>(memory.nbytes()));
  std::memcpy(buffer.data<char>(), memory.data(), buffer.bytes());
  std::vector<std::vector<float>> results(instructions.size());
  emulator::device.seed = seed;
  const dim3 block(static_cast<unsigned>(instructions.size()));
  INTARSIA_LAUNCH(program_kernel, dim3(1), block, shared_bytes, nullptr,
                  Program{&instructions, buffer.data<float>(), &results});
  return results;
}

struct Registers {
  const uint32_t* a;
  const uint32_t* b;
  float* d;
  int type;  // 0 tf32, 1 bfloat16, 2 half
};

void mma_kernel(Registers registers) {
  const unsigned lane = thread_index().x;
  uint32_t a[4], b[2];
  float d[4];
  std::memcpy(a, registers.a + 4 * lane, sizeof a);
  std::memcpy(b, registers.b + 2 * lane, sizeof b);
  std::memcpy(d, registers.d + 4 * lane, sizeof d);
  if (registers.type == 0) mma_tf32(d, a, b);
  if (registers.type == 1) mma_16bit<Bfloat16>(d, a, b);
  if (registers.type == 2) mma_16bit<Half>(d, a, b);
  std::memcpy(registers.d + 4 * lane, d, sizeof d);
}

// One mma on the registers of 32 lanes: a [32, 4], b [32, 2], d [32, 4].
Array<float> mma(const Array<uint32_t>& a, const Array<uint32_t>& b, const Array<float>& d, int type) {
  Array<float> result(std::vector<py::ssize_t>{32, 4});
  std::memcpy(result.mutable_data(), d.data(), static_cast<size_t>(result.nbytes()));
  INTARSIA_LAUNCH(mma_kernel, dim3(1), dim3(32), 0, nullptr,
                  Registers{a.data(), b.data(), result.mutable_data(), type});
  return result;
}

void ldmatrix_kernel(const uint16_t* memory, size_t count, const int32_t* rows, uint32_t* out, bool transpose) {
  const unsigned lane = thread_index().x;
  uint16_t* shared = shared_memory<uint16_t>();
  for (size_t i = lane; i < count; i += 32) shared[i] = memory[i];
  barrier();
  uint32_t registers[4];
  if (transpose) {
    ldmatrix_x4_trans(registers, shared + rows[lane]);
  } else {
    ldmatrix_x4(registers, shared + rows[lane]);
  }
  std::memcpy(out + 4 * lane, registers, sizeof registers);
}

// The registers [32, 4] that 32 lanes get from shared memory with the given contents; `rows` [32] counts elements.
Array<uint32_t> ldmatrix(const Array<uint16_t>& memory, const Array<int32_t>& rows, bool transpose) {
  Array<uint32_t> result(std::vector<py::ssize_t>{32, 4});
  const auto count = static_cast<size_t>(memory.size());
  INTARSIA_LAUNCH(ldmatrix_kernel, dim3(1), dim3(32), 2 * count, nullptr, memory.data(), count, rows.data(),
                  result.mutable_data(), transpose);
  return result;
}

void nothing_kernel() {}

void launch_nothing(std::array<unsigned, 3> grid, std::array<unsigned, 3> block, size_t shared_bytes) {
  INTARSIA_LAUNCH(nothing_kernel, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), shared_bytes,
                  nullptr);
}

Array<uint32_t> round_to_tf32(const Array<float>& values) {
  Array<uint32_t> result(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i) result.mutable_data()[i] = to_tf32(values.data()[i]);
  return result;
}

template <typename T>
Array<uint16_t> round_to(const Array<float>& values) {
  Array<uint16_t> result(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i) result.mutable_data()[i] = from_float<T>(values.data()[i]).bits;
  return result;
}

template <typename T>
Array<float> widen(const Array<uint16_t>& values) {
  Array<float> result(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i) result.mutable_data()[i] = to_float(T{values.data()[i]});
  return result;
}

using MaybeArray = std::optional<Array<float>>;

// The plan's arrays, which must outlive the view.
struct PlanArrays {
  Array<int32_t> indices;
  MaybeArray weights;
  Array<int32_t> tile_segments;
  Array<int32_t> group_tiles;
  Array<float> mass;

  Plan view() const {
    return {indices.data(),
            weights ? weights->data() : nullptr,
            tile_segments.data(),
            group_tiles.data(),
            mass.data(),
            static_cast<int>(tile_segments.size()),
            static_cast<int>(group_tiles.shape(0)),
            static_cast<int>(group_tiles.shape(1)) - 2};
  }
};

// Arrays that hold maps [N, C, H, W] or [N, H, W, C], as they lie in memory.
FeatureMap<float> feature_map(const Array<float>& features, bool channels_last) {
  const auto size = [&](int dim) { return static_cast<int>(features.shape(dim)); };
  if (channels_last)
    return {features.data(), size(0), size(3), static_cast<int64_t>(size(1)) * size(2), Layout::kChannelsLast};
  return {features.data(), size(0), size(1), static_cast<int64_t>(size(2)) * size(3), Layout::kNchw};
}

Array<float> empty(std::vector<py::ssize_t> shape) { return Array<float>(std::move(shape)); }

py::tuple masked_gram(const Array<float>& features, bool channels_last, const PlanArrays& plan,
                      const Options& options) {
  const FeatureMap<float> map = feature_map(features, channels_last);
  const Plan view = plan.view();
  Array<float> gram = empty({map.batch, view.segments, map.channels, map.channels});
  Array<float> mean = empty({map.batch, view.segments, map.channels});
  run_masked_gram(map, view, options, gram.mutable_data(), mean.mutable_data());
  return py::make_tuple(gram, mean);
}

py::tuple masked_gram_loss(const Array<float>& features, bool channels_last, const PlanArrays& plan,
                           const Array<float>& targets, const Array<float>& factors, const Options& options) {
  const FeatureMap<float> map = feature_map(features, channels_last);
  const Plan view = plan.view();
  Array<float> losses = empty({map.batch, view.segments});
  Array<float> difference = empty({map.batch, view.segments, map.channels, map.channels});
  run_masked_gram_loss(map, view, targets.data(), factors.data(), options, losses.mutable_data(),
                       difference.mutable_data());
  return py::make_tuple(losses, difference);
}

Array<float> masked_gram_backward(const Array<float>& features, bool channels_last, const PlanArrays& plan,
                                  const Array<float>& matrices, const Array<float>& scales,
                                  const MaybeArray& mean_gradient, const Options& options) {
  Array<float> out = empty({features.shape(), features.shape() + features.ndim()});
  const GradientArrays gradient{matrices.data(), scales.data(), mean_gradient ? mean_gradient->data() : nullptr};
  run_masked_gram_backward(feature_map(features, channels_last), plan.view(), gradient, options, out.mutable_data());
  return out;
}

py::tuple masked_tv(const Array<float>& image, bool channels_last, const MaybeArray& weight, bool product,
                    const Options& options) {
  float loss;
  Array<float> gradient = empty({image.shape(), image.shape() + image.ndim()});
  run_masked_tv(feature_map(image, channels_last), static_cast<int>(image.shape(channels_last ? 1 : 2)),
                weight ? weight->data() : nullptr, product, options, &loss, gradient.mutable_data());
  return py::make_tuple(loss, gradient);
}

// Of an array that holds a map [N, H, W, C].
LayerShape layer_shape(const Array<float>& map) {
  const auto size = [&](int dim) { return static_cast<int>(map.shape(dim)); };
  return {size(0), size(1), size(2), size(3)};
}

Array<float> convolution_input(const Array<float>& features, bool pool, bool pad, const Options& options) {
  const LayerShape shape = layer_shape(features);
  const int divisor = pool ? 2 : 1, margins = pad ? 2 : 0;
  const LayerShape out_shape{shape.batch, shape.height / divisor + margins, shape.width / divisor + margins,
                             shape.channels};
  Array<float> out = empty({out_shape.batch, out_shape.height, out_shape.width, out_shape.channels});
  run_convolution_input(features.data(), shape, pool, pad, options, out_shape, out.mutable_data());
  return out;
}

Array<float> relu_backward(const Array<float>& output, const Array<float>& gradient, bool pooled, bool padded,
                           const MaybeArray& added, const Options& options) {
  Array<float> out = empty({output.shape(), output.shape() + output.ndim()});
  run_relu_backward(output.data(), layer_shape(output), gradient.data(), layer_shape(gradient),
                    added ? added->data() : nullptr, pooled, padded, options, out.mutable_data());
  return out;
}

py::tuple feature_loss(const Array<float>& features, const Array<float>& target, const MaybeArray& weight, float share,
                       const Options& options) {
  float loss;
  Array<float> gradient = empty({features.shape(), features.shape() + features.ndim()});
  run_feature_loss(features.data(), target.data(), layer_shape(features), weight ? weight->data() : nullptr, share,
                   options, &loss, gradient.mutable_data());
  return py::make_tuple(loss, gradient);
}

}  // namespace
}  // namespace intarsia

PYBIND11_MODULE(_emulator, module) {
  using namespace intarsia;
  module.def("run_program", run_program, py::arg("instructions"), py::arg("memory"), py::arg("shared_bytes"),
             py::arg("seed"));
  module.def("mma", mma, py::arg("a"), py::arg("b"), py::arg("d"), py::arg("type"));
  module.def("ldmatrix", ldmatrix, py::arg("memory"), py::arg("rows"), py::arg("transpose"));
  module.def("launch_nothing", launch_nothing, py::arg("grid"), py::arg("block"), py::arg("shared_bytes"));
  module.def("to_tf32", round_to_tf32);
  module.def("to_bfloat16", round_to<Bfloat16>);
  module.def("to_half", round_to<Half>);
  module.def("from_bfloat16", widen<Bfloat16>);
  module.def("from_half", widen<Half>);

  py::class_<PlanArrays>(module, "Plan", py::module_local())
      .def(py::init<Array<int32_t>, MaybeArray, Array<int32_t>, Array<int32_t>, Array<float>>(), py::arg("indices"),
           py::arg("weights"), py::arg("tile_segments"), py::arg("group_tiles"), py::arg("mass"));
  py::class_<Options>(module, "Options", py::module_local())
      .def(py::init<std::string, bool, size_t, uint64_t>(), py::arg("type"), py::arg("exact"), py::arg("offset"),
           py::arg("seed"));
  module.def("masked_gram", masked_gram, py::arg("features"), py::arg("channels_last"), py::arg("plan"),
             py::arg("options"));
  module.def("masked_gram_loss", masked_gram_loss, py::arg("features"), py::arg("channels_last"), py::arg("plan"),
             py::arg("targets"), py::arg("factors"), py::arg("options"));
  module.def("masked_gram_backward", masked_gram_backward, py::arg("features"), py::arg("channels_last"),
             py::arg("plan"), py::arg("matrices"), py::arg("scales"), py::arg("mean_gradient"), py::arg("options"));
  module.def("masked_tv", masked_tv, py::arg("image"), py::arg("channels_last"), py::arg("weight"), py::arg("product"),
             py::arg("options"));
  module.def("convolution_input", convolution_input, py::arg("features"), py::arg("pool"), py::arg("pad"),
             py::arg("options"));
  module.def("relu_backward", relu_backward, py::arg("output"), py::arg("gradient"), py::arg("pooled"),
             py::arg("padded"), py::arg("added"), py::arg("options"));
  module.def("feature_loss", feature_loss, py::arg("features"), py::arg("target"), py::arg("weight"), py::arg("share"),
             py::arg("options"));
}
