// A device that runs one model: weights, KV arena, forward passes. The engine does not know which
// device it drives.
//
// Owner and thread: one engine loop; every call from that one thread. The host device computes on
// its own worker threads inside submit.
//
// Exactness: on the host device logits of a row are bit-identical whatever else is in the batch,
// however the prompt was cut in chunks, however many threads run, and on every instruction set. On
// CUDA this holds under `exact`.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.hpp"
#include "gpu/batch.hpp"
#include "gpu/kv_layout.hpp"
#include "model/model.hpp"

namespace troupe::transport {
class device_memory;
}

namespace troupe::gpu {

enum class memory_kind : std::uint8_t { host, cuda };

// Of a GPU that one node has for itself: the rest is for the driver, and for what libraries take.
inline constexpr double default_gpu_memory_fraction = 0.9;

struct runner_options {
  std::string device = "auto";  // "auto", "cpu", "cuda", "cuda:N"
  unsigned num_threads = 0;     // host device: 0 takes every core that this process may use
  std::string isa =
      "auto";  // host device: "auto", "avx512vnni", "avxvnni", "avx2", "portable" (for tests)
  bool exact = false;  // CUDA: fixed reduction orders
  std::string
      quantization;  // CUDA: "fp8" makes E4M3 of weights that are not quantized; "": as in the file
  double gpu_memory_fraction = 0;  // CUDA: of the GPU's memory, for weights and KV; 0: the default
  std::uint32_t max_batch_tokens = 2048;  // rows of one batch at most
  std::uint32_t max_batch_sequences = 256;
  std::uint32_t block_tokens = 16;
  // Called while weights are taken over: fraction in [0,1]. From the thread that called
  // make_runner.
  std::function<void(double)> progress;
};

class model_runner {
 public:
  virtual ~model_runner() = default;

  virtual const kv_layout& layout() const = 0;
  virtual memory_kind kv_memory() const = 0;
  // Device memory for num_blocks blocks, for a device whose kv_memory() is not host; host arenas
  // come from the transport, which maps them for its peers.
  virtual result<std::span<std::byte>> allocate_kv(std::uint32_t num_blocks) = 0;
  // How blocks of an arena that is not in host memory are moved, summed and sealed; null: it is in host memory.
  virtual std::shared_ptr<transport::device_memory> device_memory() { return nullptr; }
  // The arena that block ids index: num_blocks * layout().block_bytes() bytes, 64-byte aligned,
  // outlives the runner.
  virtual result<void> attach_kv(std::span<std::byte> arena, std::uint32_t num_blocks) = 0;

  // Starts a pass. REQUIRES: an arena is attached, none is in flight, rows <= max_batch_tokens,
  // block ids within the arena, token ids < vocab_size. The batch's spans must live until collect
  // returns.
  virtual result<void> submit(const batch& b) = 0;
  // Waits for the pass. ec::device_lost: the device is gone and so is its KV.
  virtual result<step_output> collect() = 0;

  virtual std::size_t weight_bytes() const = 0;  // memory the device holds beside the KV arena
  // What is left for KV blocks of the share of the device's memory that was given; 0: nothing, or on the host.
  virtual std::uint64_t kv_budget() const { return 0; }
  virtual std::string description() const = 0;  // "host, AVX-512 VNNI, 2 threads"
  result<step_output> forward(const batch& b) {
    TROUPE_CHECK(submit(b));
    return collect();
  }
};

// Whether the options' device is a GPU, or would be: a model that GPUs do not run stays on the host under "auto".
bool takes_gpu(const runner_options& options);

// Whether this build, on this machine, has the device that the options name. ec::unsupported, ec::device_lost: why not.
result<void> check_device(const runner_options& options);

// Takes over the weights (repacks, uploads). ec::unsupported names what this build or device cannot
// run and the way out.
result<std::unique_ptr<model_runner>> make_runner(std::shared_ptr<const model::loaded_model> model,
                                                  const runner_options& options);

}  // namespace troupe::gpu
