#include "gpu/cuda/device_memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "base/log.hpp"
#include "gpu/cuda/block_sums.hpp"

namespace troupe::gpu::cuda {
namespace {

using transport::device_batch;
using transport::device_copy;
using transport::device_done;
using transport::fence_image;

using owned_memory = std::shared_ptr<device_buffer<std::byte>>;

// Memory of this process by its address: a process cannot open its own memory by CUDA IPC.
struct process_memory {
  std::mutex mutex;
  std::map<const std::byte*, std::pair<std::weak_ptr<device_buffer<std::byte>>, int>> known;
};
process_memory& of_this_process() {
  static process_memory all;
  return all;
}

// Each look takes a lock of the driver's, which launches of the forward pass take too.
constexpr std::chrono::microseconds poll_pause{4};

// What share() gives and open() takes.
struct shared_form {
  std::uint32_t version = 1;
  std::int32_t process = 0;
  std::uint64_t address = 0, bytes = 0;
  char device[16] = {};  // UUID
  cudaIpcMemHandle_t handle{};
};

struct lane {
  enum class state : std::uint8_t { free, running, told };
  std::atomic<state> now{state::free};
  cudaStream_t stream = nullptr;
  cudaEvent_t ended = nullptr;
  pinned_buffer<block_sum> sums;
  copy_scratch scratch;
  std::size_t summed = 0;
  std::function<void(device_done&&)> done;
};

class gpu_memory_impl final : public gpu_memory {
 public:
  gpu_memory_impl(device_info device, const device_memory_options& options)
      : device_(std::move(device)), options_(options) {}
  ~gpu_memory_impl() override;
  result<void> start();

  std::string description() const override { return "cuda:" + std::to_string(device_.index); }
  std::size_t max_copies() const override { return max_summed_blocks; }
  result<std::string> share(std::byte* data, std::size_t bytes) override;
  result<const std::byte*> open(std::string_view name, std::size_t bytes) override;
  void close(const std::byte* opened) override;
  result<std::span<std::byte>> allocate_pinned(std::size_t bytes) override;
  void free_pinned(std::span<std::byte> memory) override;
  result<void> copy(device_batch batch) override;
  void poll() override;
  std::size_t polled() const override;
  result<void> invalidate(std::span<const std::span<std::byte>> blocks) override;
  result<void> copy_here(std::span<const device_copy> copies) override;
  result<void> seal(std::span<const transport::seal_order> orders) override;
  result<std::span<std::byte>> allocate(std::size_t bytes, const char* purpose) override;
  result<void> wait_for_fences(cudaStream_t stream) override;
  bool is_mapping() const override { return mapping_ > 0; }

 private:
  result<void> use() const { return checked(cudaSetDevice(device_.index), "choosing the GPU"); }
  result<void> enqueue(lane& l, const device_batch& batch);
  result<void> enqueue_engines(lane& l, std::span<const device_copy> copies);
  result<void> enqueue_kernels(lane& l, std::span<const device_copy> copies, bool checksum);
  result<void> enqueue_sums(lane& l, std::span<const device_copy> copies);
  bool suits_kernel(const device_batch& batch) const;
  static void tell(lane& l, result<void> outcome);
  static void CUDART_CB on_ended(void* of) { tell(*static_cast<lane*>(of), {}); }
  result<const std::byte*> open_own(const shared_form& form);

  const device_info device_;
  const device_memory_options options_;
  std::array<char, 16> uuid_{};
  std::vector<std::unique_ptr<lane>> lanes_;
  cudaStream_t fences_ = nullptr;
  cudaEvent_t changed_ = nullptr, sealed_ = nullptr;
  std::vector<owned_memory> owned_;
  std::map<const std::byte*, owned_memory> opened_own_;  // keeps it while it is read
  std::vector<const std::byte*> opened_;                 // by IPC
  std::atomic<int> mapping_ = 0;
  std::vector<std::span<std::byte>> pinned_;
  std::chrono::steady_clock::time_point last_poll_;
  std::vector<std::byte*> marks_;
  std::vector<block_seal> seals_;
};

result<void> gpu_memory_impl::start() {
  TROUPE_CHECK(use());
  TROUPE_CHECK(prepare_block_sums());
  TROUPE_CHECK(prepare_block_copy());
  cudaDeviceProp properties{};
  TROUPE_CHECK(
      checked(cudaGetDeviceProperties(&properties, device_.index), "asking for the GPU's name"));
  std::memcpy(uuid_.data(), properties.uuid.bytes, uuid_.size());
  int low = 0, high = 0;
  TROUPE_CHECK(checked(cudaDeviceGetStreamPriorityRange(&low, &high), "asking for priorities"));
  const auto make_event = [](cudaEvent_t& e) {
    return checked(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "making an event");
  };
  TROUPE_CHECK(checked(cudaStreamCreateWithPriority(&fences_, cudaStreamNonBlocking, high),
                       "making a stream"));
  TROUPE_CHECK(make_event(changed_));
  TROUPE_CHECK(make_event(sealed_));
  for (unsigned i = 0; i < options_.lanes; ++i) {
    lane& l = *lanes_.emplace_back(std::make_unique<lane>());
    TROUPE_CHECK(checked(cudaStreamCreateWithPriority(&l.stream, cudaStreamNonBlocking, low),
                         "making a stream"));
    TROUPE_CHECK(make_event(l.ended));
    TROUPE_TRY(l.sums, pinned_buffer<block_sum>::make(max_summed_blocks, "sums of blocks"));
    TROUPE_TRY(l.scratch, copy_scratch::make());
  }
  return {};
}

gpu_memory_impl::~gpu_memory_impl() {
  cudaSetDevice(device_.index);
  for (auto& l : lanes_) {
    const auto code = l->stream == nullptr ? cudaSuccess : cudaStreamSynchronize(l->stream);
    if (options_.polled) tell(*l, checked(code, "copying KV blocks"));
    if (l->stream != nullptr) cudaStreamDestroy(l->stream);
    if (l->ended != nullptr) cudaEventDestroy(l->ended);
  }
  for (const std::byte* opened : opened_) cudaIpcCloseMemHandle(const_cast<std::byte*>(opened));
  if (fences_ != nullptr) cudaStreamDestroy(fences_);
  if (changed_ != nullptr) cudaEventDestroy(changed_);
  if (sealed_ != nullptr) cudaEventDestroy(sealed_);
}

// -- memory -----------------------------------------------------------------------------------------------------------

result<std::span<std::byte>> gpu_memory_impl::allocate(std::size_t bytes, const char* purpose) {
  TROUPE_CHECK(use());
  TROUPE_TRY(auto made, device_buffer<std::byte>::make(bytes, purpose));
  owned_.push_back(std::make_shared<device_buffer<std::byte>>(std::move(made)));
  const owned_memory& kept = owned_.back();
  std::lock_guard lock(of_this_process().mutex);
  of_this_process().known[kept->data()] = {kept, device_.index};
  return std::span<std::byte>(kept->data(), bytes);
}

result<std::string> gpu_memory_impl::share(std::byte* data, std::size_t bytes) {
  TROUPE_CHECK(use());
  shared_form form;
  form.process = static_cast<std::int32_t>(::getpid());
  form.address = reinterpret_cast<std::uint64_t>(data);
  form.bytes = bytes;
  std::memcpy(form.device, uuid_.data(), uuid_.size());
  if (auto code = cudaIpcGetMemHandle(&form.handle, data); code != cudaSuccess) {
    cudaGetLastError();
    return fail(ec::unsupported,
                std::string("CUDA IPC is not to be had here: ") + cudaGetErrorString(code));
  }
  return std::string(reinterpret_cast<const char*>(&form), sizeof form);
}

result<const std::byte*> gpu_memory_impl::open_own(const shared_form& form) {
  const auto* data = reinterpret_cast<const std::byte*>(form.address);
  std::lock_guard lock(of_this_process().mutex);
  const auto at = of_this_process().known.find(data);
  auto kept = at == of_this_process().known.end() ? nullptr : at->second.first.lock();
  if (kept == nullptr || kept->bytes() < form.bytes)
    return fail(ec::not_found, "the memory of this process is gone");
  if (at->second.second != device_.index) {
    const auto code = cudaDeviceEnablePeerAccess(at->second.second, 0);
    cudaGetLastError();
    if (code != cudaSuccess && code != cudaErrorPeerAccessAlreadyEnabled)
      return fail(ec::unsupported,
                  std::string("the GPUs do not reach each other: ") + cudaGetErrorString(code));
  }
  opened_own_[data] = std::move(kept);
  return data;
}

result<const std::byte*> gpu_memory_impl::open(std::string_view name, std::size_t bytes) {
  shared_form form;
  if (name.size() != sizeof form) return fail(ec::invalid_argument, "not shared GPU memory");
  std::memcpy(&form, name.data(), sizeof form);
  if (form.version != 1 || form.bytes != bytes)
    return fail(ec::invalid_argument, "the peer's GPU memory is of another form or size");
  TROUPE_CHECK(use());
  if (form.process == static_cast<std::int32_t>(::getpid())) return open_own(form);
  void* opened = nullptr;
  ++mapping_;
  const auto code = cudaIpcOpenMemHandle(&opened, form.handle, cudaIpcMemLazyEnablePeerAccess);
  --mapping_;
  if (code != cudaSuccess) {
    cudaGetLastError();
    return fail(ec::unsupported,
                std::string("cannot open the peer's GPU memory (a GPU that this process does not "
                            "see, another container, or no NVLink or PCIe peer access): ") +
                    cudaGetErrorString(code));
  }
  opened_.push_back(static_cast<const std::byte*>(opened));
  return opened_.back();
}

void gpu_memory_impl::close(const std::byte* opened) {
  if (opened_own_.erase(opened) != 0) return;
  cudaSetDevice(device_.index);
  // The same memory may have been opened twice: CUDA counts.
  const auto at = std::find(opened_.begin(), opened_.end(), opened);
  if (at == opened_.end()) return;
  opened_.erase(at);
  ++mapping_;
  const auto code = cudaIpcCloseMemHandle(const_cast<std::byte*>(opened));
  --mapping_;
  if (code != cudaSuccess) {
    cudaGetLastError();
    spdlog::debug("closing a peer's GPU memory: {}", cudaGetErrorString(code));
  }
}

result<std::span<std::byte>> gpu_memory_impl::allocate_pinned(std::size_t bytes) {
  TROUPE_CHECK(use());
  void* memory = nullptr;
  TROUPE_CHECK(checked(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable),
                       "pinning " + std::to_string(bytes >> 20) + " MiB for staging"));
  return pinned_.emplace_back(static_cast<std::byte*>(memory), bytes);
}

void gpu_memory_impl::free_pinned(std::span<std::byte> memory) {
  std::erase_if(pinned_, [&](auto m) { return m.data() == memory.data(); });
  cudaFreeHost(memory.data());
}

// -- copies -----------------------------------------------------------------------------------------------------------

result<void> gpu_memory_impl::copy(device_batch batch) {
  TROUPE_ASSERT(!batch.copies.empty() && batch.copies.size() <= max_summed_blocks);
  lane* free = nullptr;
  for (auto& l : lanes_)
    if (l->now.load(std::memory_order_acquire) == lane::state::free) {
      free = l.get();
      break;
    }
  if (free == nullptr) return fail(ec::queue_full, "every lane of the GPU is taken");
  TROUPE_CHECK(use());
  free->summed = batch.checksum ? batch.copies.size() : 0;
  free->done = std::move(batch.done);
  free->now.store(lane::state::running, std::memory_order_release);
  auto begun = enqueue(*free, batch);
  if (begun) return {};
  // Some copies may be under way: nothing is known of them before the stream says so.
  cudaStreamSynchronize(free->stream);
  free->done = nullptr;
  free->now.store(lane::state::free, std::memory_order_release);
  return begun;
}

// Whole blocks of one size between devices.
bool gpu_memory_impl::suits_kernel(const device_batch& batch) const {
  if (options_.way != copy_way::kernel && options_.way != copy_way::fused) return false;
  const auto is_pinned = [&](const std::byte* p) {
    return std::any_of(pinned_.begin(), pinned_.end(),
                       [&](auto m) { return p >= m.data() && p < m.data() + m.size(); });
  };
  return std::all_of(batch.copies.begin(), batch.copies.end(), [&](const device_copy& c) {
    const auto places =
        reinterpret_cast<std::uintptr_t>(c.to) | c.bytes | reinterpret_cast<std::uintptr_t>(c.from);
    return c.bytes == batch.copies[0].bytes && places % 16 == 0 && !is_pinned(c.to) &&
           !is_pinned(c.from);
  });
}

result<void> gpu_memory_impl::enqueue(lane& l, const device_batch& batch) {
  TROUPE_CHECK(wait_for_fences(l.stream));
  if (suits_kernel(batch)) {
    TROUPE_CHECK(enqueue_kernels(l, batch.copies, batch.checksum));
  } else {
    TROUPE_CHECK(enqueue_engines(l, batch.copies));
    if (batch.checksum) TROUPE_CHECK(enqueue_sums(l, batch.copies));
  }
  TROUPE_CHECK(checked(cudaEventRecord(l.ended, l.stream), "copying KV blocks"));
  if (options_.polled) return {};
  return checked(cudaLaunchHostFunc(l.stream, on_ended, &l), "copying KV blocks");
}

result<void> gpu_memory_impl::enqueue_engines(lane& l, std::span<const device_copy> copies) {
  std::array<void*, max_summed_blocks> to;
  std::array<const void*, max_summed_blocks> from;
  std::array<std::size_t, max_summed_blocks> bytes;
  std::size_t runs = 0;
  for (const auto& c : copies) {
    if (options_.way != copy_way::plain && runs > 0 &&
        static_cast<std::byte*>(to[runs - 1]) + bytes[runs - 1] == c.to &&
        static_cast<const std::byte*>(from[runs - 1]) + bytes[runs - 1] == c.from) {
      bytes[runs - 1] += c.bytes;
      continue;
    }
    to[runs] = c.to;
    from[runs] = c.from;
    bytes[runs++] = c.bytes;
  }
  if (options_.way == copy_way::batched && runs > 1) {
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    std::size_t first = 0;
    return checked(cudaMemcpyBatchAsync(to.data(), from.data(), bytes.data(), runs, &attributes,
                                        &first, 1, l.stream),
                   "copying KV blocks");
  }
  for (std::size_t i = 0; i < runs; ++i)
    TROUPE_CHECK(checked(cudaMemcpyAsync(to[i], from[i], bytes[i], cudaMemcpyDefault, l.stream),
                         "copying a KV block"));
  return {};
}

result<void> gpu_memory_impl::enqueue_kernels(lane& l, std::span<const device_copy> copies,
                                              bool checksum) {
  std::array<block_copy, max_summed_blocks> blocks;
  for (std::size_t i = 0; i < copies.size(); ++i) blocks[i] = {copies[i].to, copies[i].from};
  const std::span all(blocks.data(), copies.size());
  const std::size_t bytes = copies[0].bytes, most = l.scratch.blocks_at_once(bytes);
  if (!checksum || options_.way == copy_way::kernel || most == 0) {
    TROUPE_CHECK(copy_blocks(all, bytes, options_.grid, l.stream));
    return checksum ? enqueue_sums(l, copies) : result<void>{};
  }
  for (std::size_t first = 0; first < all.size(); first += most)
    TROUPE_CHECK(copy_and_sum_blocks(all.subspan(first, std::min(most, all.size() - first)), bytes,
                                     options_.grid, l.scratch, l.sums.data() + first, l.stream));
  return {};
}

// Of blocks that earlier work of the stream brings.
result<void> gpu_memory_impl::enqueue_sums(lane& l, std::span<const device_copy> copies) {
  const std::size_t bytes = copies[0].bytes, most = l.scratch.blocks_at_once(bytes);
  std::array<const std::byte*, max_summed_blocks> places;
  std::array<block_copy, max_summed_blocks> blocks;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    TROUPE_ASSERT(copies[i].bytes == bytes);
    places[i] = copies[i].to;
    blocks[i] = {copies[i].to, nullptr};
  }
  if (options_.way == copy_way::plain || most == 0)
    return sum_blocks({places.data(), copies.size()}, bytes - transport::fence_bytes, l.sums.data(),
                      l.stream);
  for (std::size_t first = 0; first < copies.size(); first += most)
    TROUPE_CHECK(sum_blocks_in_place({blocks.data() + first, std::min(most, copies.size() - first)},
                                     bytes, options_.grid, l.scratch, l.sums.data() + first,
                                     l.stream));
  return {};
}

// By CUDA's thread, or by poll() when that never comes: whoever is first.
void gpu_memory_impl::tell(lane& l, result<void> outcome) {
  auto running = lane::state::running;
  if (!l.now.compare_exchange_strong(running, lane::state::told)) return;
  device_done ended;
  ended.outcome = std::move(outcome);
  if (ended.outcome) {
    for (std::size_t i = 0; i < l.summed; ++i) {
      const block_sum& s = l.sums.data()[i];
      ended.checksums.push_back(s.sum);
      std::memcpy(ended.fences.emplace_back().data(), s.fence, transport::fence_bytes);
    }
  }
  auto done = std::exchange(l.done, nullptr);
  l.now.store(lane::state::free, std::memory_order_release);
  done(std::move(ended));
}

void gpu_memory_impl::poll() {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_poll_ < poll_pause) return;
  last_poll_ = now;
  cudaSetDevice(device_.index);
  for (auto& l : lanes_) {
    if (l->now.load(std::memory_order_acquire) != lane::state::running) continue;
    const auto code = cudaEventQuery(l->ended);
    if (code == cudaErrorNotReady || (code == cudaSuccess && !options_.polled)) continue;
    tell(*l, checked(code, "copying KV blocks"));
  }
}

std::size_t gpu_memory_impl::polled() const {
  if (!options_.polled) return 0;
  return static_cast<std::size_t>(std::count_if(lanes_.begin(), lanes_.end(), [](const auto& l) {
    return l->now.load(std::memory_order_acquire) == lane::state::running;
  }));
}

// -- fences -----------------------------------------------------------------------------------------------------------

result<void> gpu_memory_impl::invalidate(std::span<const std::span<std::byte>> blocks) {
  TROUPE_CHECK(use());
  marks_.clear();
  for (auto block : blocks) marks_.push_back(block.data() + block.size() - transport::fence_bytes);
  TROUPE_CHECK(store_marks(marks_, transport::fence_invalid_mark, fences_));
  return checked(cudaEventRecord(changed_, fences_), "invalidating fences");
}

result<void> gpu_memory_impl::copy_here(std::span<const device_copy> copies) {
  TROUPE_CHECK(use());
  for (const device_copy& c : copies) {
    TROUPE_CHECK(checked(cudaMemcpyAsync(c.to, c.from, c.bytes, cudaMemcpyDeviceToDevice, fences_),
                         "copying a KV block"));
  }
  return checked(cudaEventRecord(changed_, fences_), "copying KV blocks");
}

result<void> gpu_memory_impl::wait_for_fences(cudaStream_t stream) {
  return checked(cudaStreamWaitEvent(stream, changed_, 0), "waiting for fences");
}

result<void> gpu_memory_impl::seal(std::span<const transport::seal_order> orders) {
  if (orders.empty()) return {};
  TROUPE_CHECK(use());
  seals_.clear();
  for (const auto& o : orders) {
    block_seal& s = seals_.emplace_back();
    s.block = o.block.data();
    const fence_image image = transport::encode_fence(o.tag, 0);
    std::memcpy(s.image, image.data(), image.size());
  }
  TROUPE_CHECK(seal_blocks(seals_, orders[0].block.size() - transport::fence_bytes, fences_));
  TROUPE_CHECK(checked(cudaEventRecord(sealed_, fences_), "sealing blocks"));
  return finish(sealed_, "sealing blocks");
}

}  // namespace

result<device_memory_options> parse_copy_way(std::string_view text) {
  device_memory_options options;
  const std::string all(text), name = all.substr(0, all.find(':'));
  constexpr std::pair<const char*, copy_way> ways[] = {{"plain", copy_way::plain},
                                                       {"coalesced", copy_way::coalesced},
                                                       {"batched", copy_way::batched},
                                                       {"kernel", copy_way::kernel},
                                                       {"fused", copy_way::fused}};
  const auto* way = std::find_if(std::begin(ways), std::end(ways),
                                 [&](const auto& w) { return name == w.first; });
  copy_grid& grid = options.grid;
  if (way == std::end(ways) ||
      (name != all &&
       std::sscanf(all.c_str() + name.size(), ":%ux%u", &grid.thread_blocks, &grid.threads) != 2) ||
      grid.thread_blocks == 0 || grid.threads == 0 || grid.threads % 32 != 0 || grid.threads > 256)
    return fail(ec::invalid_argument, "no way to copy blocks: " + all);
  options.way = way->second;
  return options;
}

result<std::shared_ptr<gpu_memory>> gpu_memory::make(const device_info& device,
                                                     const device_memory_options& options) {
  auto made = std::make_shared<gpu_memory_impl>(device, options);
  TROUPE_CHECK(made->start());
  return std::shared_ptr<gpu_memory>(std::move(made));
}

}  // namespace troupe::gpu::cuda
