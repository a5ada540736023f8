// Runs the CUDA kernels of csrc/cuda on the host, so that they can be tested where there is no GPU.
//
// Stands in for nvcc: `cuda/device.cuh` includes it when INTARSIA_EMULATOR is defined and takes every function of its
// interface from here. One block runs at a time. Each of its threads is a fiber, and a thread runs until it meets a
// barrier or a warp-collective operation, so a run is deterministic and the order of the threads can be chosen: seed 0
// runs them forward, seed 1 backward, every other seed in an order that differs from barrier to barrier. What hardware
// leaves open is made to hurt:
// - Shared memory starts as NaN (as an integer: a number no index reaches), with guards around it.
// - cp_async turns its destination into NaN and delivers only in the issuing thread's own cp_async_wait.
// - Data delivered by cp_async and read by ldmatrix, or read by ldmatrix and overwritten by cp_async, with no barrier
//   between, is an error in every order of the threads.
// - A collective that not all 32 lanes of a warp reach, a barrier that not all threads of a block reach, an access
//   out of bounds or misaligned in cp_async or ldmatrix, and a launch that an sm_86 device would refuse are errors.
// Plain loads and stores are not seen: there the poison, the guards and the order of the threads must show a fault.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <source_location>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

using cudaStream_t = void*;

namespace intarsia {
namespace emulator {

using Location = std::source_location;

constexpr int kLanes = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxGridYZ = 65535;
constexpr size_t kMaxSharedBytes = 99 * 1024;  // what a block may ask for on sm_86 and sm_89, the least of sm_80 to 90
constexpr size_t kGuardBytes = 8 * 1024;
constexpr size_t kStackBytes = 128 * 1024 + 17 * 64;  // no power of two, or all stacks would share the same cache lines

// NaN as float, bfloat16 and half; as an integer about 2^31. Even addresses hold 0xff and odd ones 0x7f.
constexpr uint64_t kPoison = 0x7fff7fff7fff7fffu;

inline unsigned char poison_at(const unsigned char* byte) {
  return (reinterpret_cast<uintptr_t>(byte) & 1) != 0 ? 0x7f : 0xff;
}

inline void poison(void* memory, size_t bytes) {
  auto* byte = static_cast<unsigned char*>(memory);
  for (; bytes > 0 && reinterpret_cast<uintptr_t>(byte) % 8 != 0; --bytes, ++byte) *byte = poison_at(byte);
  for (; bytes >= 8; bytes -= 8, byte += 8) std::memcpy(byte, &kPoison, 8);
  for (; bytes > 0; --bytes, ++byte) *byte = poison_at(byte);
}

inline bool is_poisoned(const void* memory, size_t bytes) {
  const auto* byte = static_cast<const unsigned char*>(memory);
  const unsigned char* end = byte + bytes;
  while (byte < end) {
    const bool whole = end - byte >= 8 && reinterpret_cast<uintptr_t>(byte) % 8 == 0;
    if (whole ? std::memcmp(byte, &kPoison, 8) != 0 : *byte != poison_at(byte)) return false;
    byte += whole ? 8 : 1;
  }
  return true;
}

// Poisoned global memory between poisoned guards, which every launch checks when it is done. While there is any such
// buffer cp_async may read from nowhere else. `offset` moves the start off an allocation's alignment.
class GlobalBuffer {
 public:
  GlobalBuffer(std::string name, size_t bytes, size_t offset = 0);
  ~GlobalBuffer();
  GlobalBuffer(const GlobalBuffer&) = delete;
  GlobalBuffer& operator=(const GlobalBuffer&) = delete;

  const std::string& name() const { return name_; }
  char* begin() const { return begin_; }
  char* end() const { return begin_ + bytes_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* data() const {
    return reinterpret_cast<T*>(begin_);
  }

  // Throws if something was written beside the buffer.
  void check_guards() const {
    const char* last = memory_.data() + memory_.size();
    if (!is_poisoned(memory_.data(), static_cast<size_t>(begin_ - memory_.data())))
      throw std::runtime_error("written before the start of " + name_);
    if (!is_poisoned(end(), static_cast<size_t>(last - end())))
      throw std::runtime_error("written past the end of " + name_);
  }

 private:
  std::string name_;
  size_t bytes_;
  std::vector<char> memory_;
  char* begin_;
};

inline std::vector<const GlobalBuffer*> global_buffers;

inline GlobalBuffer::GlobalBuffer(std::string name, size_t bytes, size_t offset)
    : name_(std::move(name)), bytes_(bytes), memory_(bytes + 2 * kGuardBytes + offset + 256) {
  poison(memory_.data(), memory_.size());
  const auto first = reinterpret_cast<uintptr_t>(memory_.data()) + kGuardBytes;
  begin_ = reinterpret_cast<char*>((first + 255) / 256 * 256 + offset);
  global_buffers.push_back(this);
}

inline GlobalBuffer::~GlobalBuffer() { std::erase(global_buffers, this); }

// splitmix64: the same sequence on every machine, which std::shuffle and the distributions do not promise.
struct Random {
  uint64_t state = 0;
  uint64_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[next() % i]);
  }
};

struct Copy {
  char* destination;
  const char* source;
  int bytes;
  bool valid;
};

enum class State { kReady, kAtBarrier, kAtCollective, kDone };

struct Thread {
  unsigned number = 0;
  dim3 index;
  State state = State::kDone;
  Location where;                         // of the barrier or collective it waits at
  std::vector<std::vector<Copy>> groups;  // committed copies, oldest first
  std::vector<Copy> copies;               // issued, not yet committed
  bool started = false;                   // its fiber exists and waits for the next block
  ucontext_t start;
  jmp_buf resume;
};

struct Warp {
  const char* operation = nullptr;
  Location where;
  int arrived = 0;
  std::array<void*, kLanes> arguments;
};

inline bool same(const Location& a, const Location& b) { return a.line() == b.line() && a.column() == b.column(); }

inline std::string file_and_line(const Location& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

// The one block that runs, and its scheduler. Not a singleton by taste: a kernel's code reaches it from nowhere.
class Device {
 public:
  uint64_t seed = 0;
  dim3 block_index, grid, block;
  Thread* current = nullptr;
  char* shared = nullptr;
  size_t shared_bytes = 0;

  template <typename Kernel>
  void launch(dim3 grid_size, dim3 block_size, size_t bytes, const Kernel& kernel) {
    const unsigned threads = block_size.x * block_size.y * block_size.z;
    const unsigned long long blocks = 1ull * grid_size.x * grid_size.y * grid_size.z;
    if (threads == 0 || threads > kMaxThreads || threads % kLanes != 0)
      throw std::runtime_error("launch: a block of " + std::to_string(threads) + " threads");
    if (blocks == 0 || grid_size.x > 0x7fffffffu || grid_size.y > kMaxGridYZ || grid_size.z > kMaxGridYZ)
      throw std::runtime_error("launch: a grid of " + text(grid_size));
    if (bytes > kMaxSharedBytes)
      throw std::runtime_error("launch: " + std::to_string(bytes) + " bytes of shared memory");
    grid = grid_size;
    block = block_size;
    random_.state = seed;
    set_up(threads, bytes);
    run_ = [](const void* body) { (*static_cast<const Kernel*>(body))(); };
    body_ = &kernel;
    std::vector<unsigned long long> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    if (seed == 1) std::reverse(order.begin(), order.end());
    if (seed > 1) random_.shuffle(order);
    for (const unsigned long long number : order) {
      block_index.x = static_cast<unsigned>(number % grid.x);
      block_index.y = static_cast<unsigned>(number / grid.x % grid.y);
      block_index.z = static_cast<unsigned>(number / grid.x / grid.y);
      run_block();
    }
    for (const GlobalBuffer* buffer : global_buffers) buffer->check_guards();
  }

  void barrier(const Location& where) { wait(State::kAtBarrier, where); }

  // Blocks until all lanes of the warp are here; the last one does the work, `body`, on the arguments of all.
  template <typename Arguments, typename Body>
  void collective(const char* operation, const Location& where, Arguments& own, const Body& body) {
    Warp& warp = warps_[current->number / kLanes];
    if (warp.arrived == 0) {
      warp.operation = operation;
      warp.where = where;
    } else if (!same(warp.where, where)) {
      fail(where, std::string(operation) + " while other lanes of the warp are in " + warp.operation + " at " +
                      file_and_line(warp.where));
    }
    warp.arguments[current->number % kLanes] = &own;
    if (++warp.arrived < kLanes) {
      wait(State::kAtCollective, where);
      return;
    }
    warp.arrived = 0;
    std::array<Arguments*, kLanes> lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = static_cast<Arguments*>(warp.arguments[i]);
    body(lanes);
    Thread* first = current - current->number % kLanes;
    for (int i = 0; i < kLanes; ++i) first[i].state = State::kReady;
  }

  void check_shared(const void* address, size_t bytes, const char* operation, const Location& where) const {
    const auto* byte = static_cast<const char*>(address);
    if (byte < shared || byte + bytes > shared + shared_bytes)
      fail(where, std::string(operation) + ": shared address " + std::to_string(byte - shared) + " of " +
                      std::to_string(shared_bytes));
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
      fail(where, std::string(operation) + ": shared address " + std::to_string(byte - shared) +
                      " is not a multiple of " + std::to_string(bytes));
  }

  void issue(const Copy& copy, const Location& where) {
    const size_t bytes = static_cast<size_t>(copy.bytes);
    check_shared(copy.destination, bytes, "cp_async", where);
    if (reinterpret_cast<uintptr_t>(copy.source) % bytes != 0) fail(where, "cp_async: its source is misaligned");
    if (copy.valid) check_source(copy, where);
    for (size_t i = 0; i < bytes; i += 4)
      if (read_in_[word(copy.destination + i)] == phase_)
        fail(where, "cp_async: overwrites what ldmatrix has read since the last barrier");
    poison(copy.destination, bytes);
    current->copies.push_back(copy);
  }

  void commit() {
    current->groups.push_back(std::move(current->copies));
    current->copies.clear();
  }

  void wait_group(size_t pending) {
    auto& groups = current->groups;
    const size_t ready = groups.size() > pending ? groups.size() - pending : 0;
    for (size_t g = 0; g < ready; ++g)
      for (const Copy& copy : groups[g]) deliver(copy);
    groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(ready));
  }

  void mark_read(const void* row, const Location& where) {
    for (size_t i = 0; i < 16; i += 4) {
      const size_t at = word(static_cast<const char*>(row) + i);
      if (delivered_in_[at] == phase_) fail(where, "ldmatrix: reads what cp_async delivered with no barrier since");
      read_in_[at] = phase_;
    }
  }

  [[noreturn]] void fail(const Location& where, const std::string& what) const {
    std::ostringstream message;
    message << file_and_line(where) << ": block " << text(block_index) << " thread " << text(current->index) << ": "
            << what;
    throw std::runtime_error(message.str());
  }

 private:
  static std::string text(const dim3& d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  }

  size_t word(const char* address) const { return static_cast<size_t>(address - shared) / 4; }

  void check_source(const Copy& copy, const Location& where) const {
    if (global_buffers.empty()) return;
    for (const GlobalBuffer* buffer : global_buffers)
      if (copy.source >= buffer->begin() && copy.source + copy.bytes <= buffer->end()) return;
    for (const GlobalBuffer* buffer : global_buffers)
      if (copy.source + kGuardBytes >= buffer->begin() && copy.source < buffer->end() + kGuardBytes)
        fail(where, "cp_async: byte " + std::to_string(copy.source - buffer->begin()) + " of " + buffer->name() +
                        ", which has " + std::to_string(buffer->bytes()));
    fail(where, "cp_async: its source is in no buffer");
  }

  void deliver(const Copy& copy) {
    if (copy.valid) {
      std::memcpy(copy.destination, copy.source, static_cast<size_t>(copy.bytes));
    } else {
      std::memset(copy.destination, 0, static_cast<size_t>(copy.bytes));
    }
    for (int i = 0; i < copy.bytes; i += 4) delivered_in_[word(copy.destination + i)] = phase_;
  }

  void set_up(unsigned threads, size_t bytes) {
    shared_bytes = bytes;
    memory_.resize(bytes + 2 * kGuardBytes + 128);
    const auto first = reinterpret_cast<uintptr_t>(memory_.data()) + kGuardBytes;
    shared = reinterpret_cast<char*>((first + 127) / 128 * 128);
    poison(memory_.data(), memory_.size());
    delivered_in_.assign(bytes / 4 + 1, 0);
    read_in_.assign(bytes / 4 + 1, 0);
    if (stacks_ == nullptr) {
      stacks_ = mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (stacks_ == MAP_FAILED) throw std::runtime_error("no memory for the fibers' stacks");
      threads_ = std::make_unique<Thread[]>(kMaxThreads);
    }
    count_ = threads;
    warps_.assign(threads / kLanes, Warp());
    for (unsigned i = 0; i < threads; ++i) {
      threads_[i].number = i;
      threads_[i].index = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
    }
  }

  void run_block() {
    poison(shared, shared_bytes);
    for (unsigned i = 0; i < count_; ++i) {
      threads_[i].state = State::kReady;
      threads_[i].groups.clear();
      threads_[i].copies.clear();
    }
    for (Warp& warp : warps_) warp.arrived = 0;
    error_ = nullptr;
    try {
      do {
        ++phase_;
        run_phase();
      } while (release_barrier());
      check_guards();
    } catch (...) {
      // The other fibers stay where they are, for good; new ones take over their stacks.
      for (unsigned i = 0; i < kMaxThreads; ++i) threads_[i].started = false;
      throw;
    }
  }

  // Runs every thread up to the next barrier, or to its end.
  void run_phase() {
    std::vector<unsigned> order(warps_.size()), lanes(kLanes);
    std::iota(order.begin(), order.end(), 0);
    std::iota(lanes.begin(), lanes.end(), 0);
    bool interleave = false;  // whether a warp yields to the next one at each collective, or only at barriers
    if (seed == 1) {
      std::reverse(order.begin(), order.end());
      std::reverse(lanes.begin(), lanes.end());
    } else if (seed > 1) {
      random_.shuffle(order);
      random_.shuffle(lanes);
      interleave = random_.next() % 2 != 0;
    }
    for (bool ran = true; ran;) {
      ran = false;
      for (const unsigned warp : order) {
        bool again = true;
        while (again) {
          const bool progress = run_lanes(warp, lanes);
          ran = ran || progress;
          again = progress && !interleave;
        }
      }
    }
  }

  bool run_lanes(unsigned warp, const std::vector<unsigned>& lanes) {
    bool progress = false;
    for (const unsigned lane : lanes) {
      Thread& thread = threads_[warp * kLanes + lane];
      if (thread.state != State::kReady) continue;
      progress = true;
      current = &thread;
      enter(thread);
      if (error_) std::rethrow_exception(error_);
    }
    return progress;
  }

  // Nothing can run any more: either the block is done, or all its threads must be at one barrier.
  bool release_barrier() {
    const Thread* waiting = nullptr;
    for (unsigned i = 0; i < count_; ++i) {
      current = &threads_[i];
      if (current->state == State::kAtCollective) {
        const Warp& warp = warps_[i / kLanes];
        fail(current->where, std::string(warp.operation) + ": only " + std::to_string(warp.arrived) +
                                 " of the warp's 32 lanes arrived");
      }
      if (current->state == State::kAtBarrier) waiting = current;
    }
    if (waiting == nullptr) return false;
    for (unsigned i = 0; i < count_; ++i) {
      current = &threads_[i];
      if (current->state == State::kDone)
        fail(waiting->where, "returned, while others wait at a barrier");
      else if (!same(current->where, waiting->where))
        fail(current->where, "at a barrier, while others wait at that of " + file_and_line(waiting->where));
      current->state = State::kReady;
    }
    return true;
  }

  void check_guards() {
    const auto before = static_cast<size_t>(shared - memory_.data());
    const char* end = shared + shared_bytes;
    if (!is_poisoned(memory_.data(), before)) fail(Location::current(), "wrote before the start of shared memory");
    if (!is_poisoned(end, static_cast<size_t>(memory_.data() + memory_.size() - end)))
      fail(Location::current(), "wrote past the end of shared memory");
  }

  // Fibers: ucontext only starts them. Its swap makes two system calls, so from then on they switch by _longjmp, which
  // makes none. Neither function may be inlined, for _setjmp's sake.
  [[gnu::noinline]] void enter(Thread& thread) {
    if (_setjmp(scheduler_) != 0) return;
    if (thread.started) _longjmp(thread.resume, 1);
    thread.started = true;
    getcontext(&thread.start);
    thread.start.uc_stack.ss_sp = static_cast<char*>(stacks_) + thread.number * kStackBytes;
    thread.start.uc_stack.ss_size = kStackBytes;
    thread.start.uc_link = nullptr;
    const auto address = reinterpret_cast<uintptr_t>(this);
    makecontext(&thread.start, reinterpret_cast<void (*)()>(fiber), 2, static_cast<unsigned>(address >> 32),
                static_cast<unsigned>(address));
    setcontext(&thread.start);
  }

  [[gnu::noinline]] void leave() {
    if (_setjmp(current->resume) == 0) _longjmp(scheduler_, 1);
  }

  void wait(State state, const Location& where) {
    current->state = state;
    current->where = where;
    leave();
  }

  // makecontext passes ints alone.
  static void fiber(unsigned high, unsigned low) {
    auto* device = reinterpret_cast<Device*>(static_cast<uintptr_t>(high) << 32 | low);
    for (;;) {
      device->run_thread();
      device->leave();
    }
  }

  void run_thread() {
    try {
      run_(body_);
    } catch (...) {
      error_ = std::current_exception();
    }
    current->state = State::kDone;
  }

  Random random_;
  uint64_t phase_ = 0;  // counts the stretches between barriers, over all blocks and launches
  std::vector<char> memory_;
  std::vector<uint64_t> delivered_in_, read_in_;  // per word of shared memory: the last phase of cp_async and ldmatrix
  unsigned count_ = 0;
  std::unique_ptr<Thread[]> threads_;
  std::vector<Warp> warps_;
  void* stacks_ = nullptr;
  void (*run_)(const void*) = nullptr;
  const void* body_ = nullptr;
  std::exception_ptr error_;
  jmp_buf scheduler_;
};

inline Device device;

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            Arguments&&... arguments) {
  const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
  device.launch(grid, block, shared_bytes, [&] { std::apply(kernel, parameters); });
}

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// Tensor cores cut off what does not fit; they do not round.
inline float towards_zero(double value) {
  const auto nearest = static_cast<float>(value);
  return std::abs(nearest) > std::abs(value) ? bits_to_float(float_to_bits(nearest) - 1) : nearest;
}

struct MmaArguments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// d += a b with a [16, kDepth] and b [kDepth, 8], spread over the lanes as PTX has it: g = lane / 4, t = lane % 4.
template <int kDepth>
struct Mma {
  float a[16][kDepth], b[kDepth][8];

  // Most of a test's time goes by here, hence the optimisation and the loop over columns inside, for vectors.
  [[gnu::optimize("O3")]] void add_to(const std::array<MmaArguments*, kLanes>& lanes) const {
    for (int row = 0; row < 16; ++row) {
      double sums[8] = {};
      for (int k = 0; k < kDepth; ++k)
        for (int column = 0; column < 8; ++column) sums[column] += static_cast<double>(a[row][k] * b[k][column]);
      for (int column = 0; column < 8; ++column) {
        float& d = lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
        d = towards_zero(d + sums[column]);
      }
    }
  }
};

template <bool kTranspose, int kMatrices>
void ldmatrix(const char* operation, uint32_t* r, const void* row, const Location& where) {
  struct Arguments {
    uint32_t* r;
    const void* row;
  } own{r, row};
  if (static_cast<int>(device.current->number % kLanes) < 8 * kMatrices) device.check_shared(row, 16, operation, where);
  device.collective(operation, where, own, [&](const std::array<Arguments*, kLanes>& lanes) {
    for (int i = 0; i < 8 * kMatrices; ++i) device.mark_read(lanes[i]->row, where);
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int j = 0; j < kMatrices; ++j) {
        uint16_t pair[2];
        for (int k = 0; k < 2; ++k) {
          const int across = lane / 4, along = 2 * (lane % 4) + k;
          const int y = kTranspose ? along : across, x = kTranspose ? across : along;
          std::memcpy(&pair[k], static_cast<const char*>(lanes[8 * j + y]->row) + 2 * x, 2);
        }
        lanes[lane]->r[j] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
      }
    }
  });
}

}  // namespace emulator

using emulator::Location;

#define INTARSIA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::intarsia::emulator::launch(kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)

struct Bfloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(Bfloat16 value) { return emulator::bits_to_float(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(Half value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const float sign = value.bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

// To nearest, ties to even.
template <>
inline Bfloat16 from_float<Bfloat16>(float value) {
  if (std::isnan(value)) return {0x7fff};
  const uint32_t bits = emulator::float_to_bits(value);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
inline Half from_float<Half>(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const float size = std::abs(value);
  if (std::isnan(value)) return {0x7fff};
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  // Below 2^-14 the numbers are 2^-24 apart; above, 2^-10 of their power of two. The host rounds ties to even too.
  const int exponent = size < std::ldexp(1.0f, -14) ? -14 : std::ilogb(size);
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  // A carry out of the fraction runs into the exponent, as it should.
  return {static_cast<uint16_t>(sign | (steps + (exponent + 14) * 1024))};
}

inline const dim3& thread_index() { return emulator::device.current->index; }
inline const dim3& block_index() { return emulator::device.block_index; }
inline const dim3& grid_size() { return emulator::device.grid; }
inline const dim3& block_size() { return emulator::device.block; }

template <typename T>
T* shared_memory() {
  return reinterpret_cast<T*>(emulator::device.shared);
}

template <int kBytes>
void cp_async(void* shared, const void* global, bool valid, Location where = Location::current()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulator::device.issue({static_cast<char*>(shared), static_cast<const char*>(global), kBytes, valid}, where);
}

inline void cp_async_commit() { emulator::device.commit(); }

template <int kPending>
void cp_async_wait() {
  emulator::device.wait_group(kPending);
}

inline void barrier(Location where = Location::current()) { emulator::device.barrier(where); }

// To the nearest number of 10 fraction bits, ties away from zero. What the 13 bits below hold then is left open by PTX.
inline uint32_t to_tf32(float value) {
  if (std::isnan(value)) return 0x7fffffff;
  return emulator::float_to_bits(value) + (std::isinf(value) ? 0 : 0x1000);
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     Location where = Location::current()) {
  emulator::MmaArguments own{d, a, b};
  emulator::device.collective("mma_tf32", where, own, [](const auto& lanes) {
    // The hardware does not look at the 13 low bits.
    const auto tf32 = [](uint32_t bits) { return emulator::bits_to_float(bits & ~0x1fffu); };
    emulator::Mma<8> mma;
    for (int lane = 0; lane < emulator::kLanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i) mma.a[g + i % 2 * 8][t + i / 2 * 4] = tf32(lanes[lane]->a[i]);
      for (int i = 0; i < 2; ++i) mma.b[t + i * 4][g] = tf32(lanes[lane]->b[i]);
    }
    mma.add_to(lanes);
  });
}

template <typename T>
void mma_16bit(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Location where = Location::current()) {
  emulator::MmaArguments own{d, a, b};
  emulator::device.collective("mma_16bit", where, own, [](const auto& lanes) {
    const auto half = [](uint32_t pair, int i) { return to_float(T{static_cast<uint16_t>(pair >> 16 * i)}); };
    emulator::Mma<16> mma;
    for (int lane = 0; lane < emulator::kLanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int k = 0; k < 2; ++k) {
        for (int i = 0; i < 4; ++i) mma.a[g + i % 2 * 8][2 * t + i / 2 * 8 + k] = half(lanes[lane]->a[i], k);
        for (int i = 0; i < 2; ++i) mma.b[2 * t + i * 8 + k][g] = half(lanes[lane]->b[i], k);
      }
    }
    mma.add_to(lanes);
  });
}

// `row` is the 16-byte row i % 8 of matrix i / 8, in lane i; beyond the last matrix it is not looked at.
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, Location where = Location::current()) {
  emulator::ldmatrix<false, 4>("ldmatrix_x4", r, row, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Location where = Location::current()) {
  emulator::ldmatrix<true, 4>("ldmatrix_x4_trans", r, row, where);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, Location where = Location::current()) {
  emulator::ldmatrix<false, 2>("ldmatrix_x2", r, row, where);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, Location where = Location::current()) {
  emulator::ldmatrix<true, 2>("ldmatrix_x2_trans", r, row, where);
}

// Butterfly: the same sum, to the bit, in every lane.
inline float warp_sum(float value, Location where = Location::current()) {
  emulator::device.collective("warp_sum", where, value, [](const std::array<float*, emulator::kLanes>& lanes) {
    for (int distance = emulator::kLanes / 2; distance > 0; distance /= 2) {
      float sums[emulator::kLanes];
      for (int i = 0; i < emulator::kLanes; ++i) sums[i] = *lanes[i] + *lanes[i ^ distance];
      for (int i = 0; i < emulator::kLanes; ++i) *lanes[i] = sums[i];
    }
  });
  return value;
}

}  // namespace intarsia
