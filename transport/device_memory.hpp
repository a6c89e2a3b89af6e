// What the transport and the engine need of a device whose memory holds a region: copies that run beside the device's
// work, sums over blocks, fences, and a name by which another process on the host opens the memory. The seam that keeps
// CUDA out of these rooms: gpu/cuda implements it, tests with host memory.
//
// Threads: `invalidate`, `copy_here` and `seal` from the engine's thread; `open` and `close` from one thread, for which they may take
// seconds; everything else from the fabric's progress thread; each may run beside the others. `done` comes on any thread, must return within microseconds and may call nothing of the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "transport/fence.hpp"

namespace troupe::transport {

// From and to: memory of the device, pinned host memory, or what open() gave. Never a peer's memory as `to`.
struct device_copy {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::size_t bytes = 0;
};

struct device_done {
  result<void> outcome;                  // ec::device_lost
  std::vector<std::uint64_t> checksums;  // one a copy, if asked for and successful: of the payload
  std::vector<fence_image> fences;       // the same: the 64 bytes after it
};

struct device_batch {
  std::vector<device_copy> copies;
  // Each copy is one whole block into the device's memory: sum what arrived, and bring its fence to the host.
  bool checksum = false;
  std::function<void(device_done&&)> done;
};

struct seal_order {
  std::span<std::byte> block;  // payload, then fence
  block_tag tag;
};

class device_memory {
 public:
  virtual ~device_memory() = default;
  virtual std::string description() const = 0;  // "cuda:0"
  virtual std::size_t max_copies() const = 0;   // of one batch

  // What another process on this host needs to read the memory; opaque.
  virtual result<std::string> share(std::byte* data, std::size_t bytes) = 0;
  // Opens what a process on this host shared, this one included. Usable as `from` until close, whatever becomes of the
  // owner. The error says why copies have to go through host memory.
  virtual result<const std::byte*> open(std::string_view name, std::size_t bytes) = 0;
  virtual void close(const std::byte* opened) = 0;

  // Host memory that the device copies from and to by itself.
  virtual result<std::span<std::byte>> allocate_pinned(std::size_t bytes) = 0;
  virtual void free_pinned(std::span<std::byte> memory) = 0;

  // Starts a batch. Accepted: exactly one `done`, after which nothing writes into its `to` any more. Else no `done`;
  // ec::queue_full: as many batches are under way as can be, try again after one ended.
  virtual result<void> copy(device_batch batch) = 0;
  // Ends batches of a device that is lost, which tells nobody by itself; and those that `polled` counts, once over.
  virtual void poll() = 0;
  // Batches under way whose end only poll() tells: whoever waits for them keeps asking.
  virtual std::size_t polled() const { return 0; }

  // Whatever the device does after this call, in a pass or in a batch, finds these blocks' fences invalid.
  virtual result<void> invalidate(std::span<const std::span<std::byte>> blocks) = 0;
  // The same for copies within the device's memory, one after the other; they come after the invalidations before.
  // REQUIRES: the passes and batches that wrote `from` have ended.
  virtual result<void> copy_here(std::span<const device_copy> copies) = 0;
  // When it returns, pulls of these blocks can verify. REQUIRES: the passes that wrote them were collected.
  virtual result<void> seal(std::span<const seal_order> orders) = 0;
};

}  // namespace troupe::transport
