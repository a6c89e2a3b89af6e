// Figures of KV pulls between GPUs, each owner a process of its own: `bench_gpu_kv [pull] [staged] [kill] [decode]`, each
// a few lines; without arguments all. The owner is on GPU 1 if there are two, the reader on GPU 0. `same` after them: both
// on GPU 0. Ways to copy (parse_copy_way) as further arguments are those measured; without, `pull` takes all, and `decode`
// what was best of copy engines and of kernels. Every pulled block is verified; one that does not verify is a failure.
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gpu/cuda/device_memory.hpp"
#include "gpu/cuda/synthetic.hpp"
#include "tests/gpu/cuda/need.hpp"
#include "transport/address.hpp"
#include "transport/fence.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::gpu::cuda {
namespace {

using namespace transport;
using namespace std::chrono_literals;

constexpr std::size_t payload = 2u << 20, block_stride = payload + fence_bytes, num_blocks = 512;
constexpr incarnation owner_id{0xA11CE}, reader_id{0xB0B};
block_tag tag_of_block(std::size_t i) {
  return {owner_id, i + 1, 77, 16};
}

struct kv_end {
  kv_end(incarnation self, const std::string& device, std::optional<path> forced = {},
         const device_memory_options& way = {}, std::size_t batch = 32) {
    ucx_options options;
    options.self = self;
    options.force_path = forced;
    options.device_batch = batch;
    options.max_gets = 32;
    if (device != "cpu") {
      memory = need(gpu_memory::make(need(open_device(device)), way));
      options.device = memory;
    }
    link = need(make_ucx_fabric(options, [this](event&& e) { on_event(std::move(e)); }));
    constexpr std::size_t all = num_blocks * block_stride;
    arena = memory ? need(link->register_memory(need(memory->allocate(all, "blocks")).data(), all,
                                                transport::memory_kind::cuda))
                   : need(link->allocate(all));
    scatter(false);
  }
  ~kv_end() { link->close(); }

  void on_event(event&& e) {
    std::lock_guard lock(mutex);
    if (auto* d = std::get_if<pull_done>(&e)) {
      if (!d->outcome) {
        failure = d->outcome.error();
        ++failed;
      }
      for (std::size_t i = 0; i < d->checksums.size(); ++i) {
        const std::size_t at = raw(d->op) % 64 * 32 % num_blocks + i;
        const block_tag tag = tag_of_block(theirs[at]);
        const auto ok = d->fences.empty()
                            ? verify(arena.span().subspan(ours[at] * block_stride, block_stride),
                                     tag, d->checksums[i])
                            : verify_fence(d->fences[i], tag, d->checksums[i]);
        if (!ok) {
          ++bad;
          failure = ok.error();
        }
      }
      bytes += d->bytes;
      ++done;
    } else if (auto* up = std::get_if<peer_up>(&e)) {
      via = up->via;
    } else {
      down = true;
    }
    changed.notify_all();
  }
  bool wait(const std::function<bool()>& met, std::chrono::seconds limit) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, limit, met);
  }
  // Which of the owner's blocks come where: in order, or each to any place.
  void scatter(bool randomly) {
    std::mt19937 random(7);
    for (auto* order : {&theirs, &ours}) {
      order->resize(num_blocks);
      std::iota(order->begin(), order->end(), std::size_t{0});
      if (randomly) std::shuffle(order->begin(), order->end(), random);
    }
  }
  // Blocks [32 k, 32 k + pieces) of these for op k mod 64.
  result<void> pull(std::uint64_t op, std::size_t pieces, bool checksum) {
    pull_request r{op_id{op}, owner_id, region_id{0}, arena.id, {}, clock::now() + 20s, checksum};
    const std::size_t first = op % 64 * 32 % num_blocks;
    for (std::size_t i = 0; i < pieces; ++i) {
      r.pieces.push_back(
          {theirs[first + i] * block_stride, ours[first + i] * block_stride, block_stride});
    }
    return link->pull(std::move(r));
  }

  std::shared_ptr<gpu_memory> memory;
  std::unique_ptr<fabric> link;
  region arena;
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t done = 0, failed = 0, bad = 0, bytes = 0;
  path via = path::none;
  bool down = false;
  error failure;
  std::vector<std::size_t> theirs, ours;
};

// -- the owner's process ------------------------------------------------------------------------------------------------

int run_owner(const char* device, const char* forced) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::optional<path> way;
  if (std::strcmp(forced, "staged_tcp") == 0) way = path::staged_tcp;
  kv_end end(owner_id, device, way);
  std::vector<seal_order> orders;
  for (std::size_t i = 0; i < num_blocks; ++i) {
    const auto block = end.arena.span().subspan(i * block_stride, block_stride);
    if (end.memory) {
      cudaMemset(block.data(), static_cast<int>(i * 7 + 1), payload);
    } else {
      std::memset(block.data(), static_cast<int>(i * 7 + 1), payload);
      seal(block, tag_of_block(i));
    }
    orders.push_back({block, tag_of_block(i)});
  }
  if (end.memory) {
    cudaDeviceSynchronize();
    need(end.memory->seal(orders));
  }
  for (unsigned char c : need(end.link->local_address())) std::printf("%02x", c);
  std::printf("\n");
  std::fflush(stdout);
  char ignored[16];
  while (::read(0, ignored, sizeof ignored) > 0) {
  }
  return 0;
}

class owner_process {
 public:
  owner_process(const std::string& device, const char* forced) {
    int down[2], up[2];
    if (::pipe(down) != 0 || ::pipe(up) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(down[0], 0);
      ::dup2(up[1], 1);
      for (int fd = 3; fd < 64; ++fd) ::close(fd);
      ::execl("/proc/self/exe", "bench_gpu_kv", "owner", device.c_str(), forced,
              static_cast<char*>(nullptr));
      ::_exit(127);
    }
    ::close(down[0]);
    ::close(up[1]);
    to_ = down[1];
    from_ = up[0];
    std::string line;
    char c;
    pollfd watched{from_, POLLIN, 0};
    while (::poll(&watched, 1, 60'000) == 1 && ::read(from_, &c, 1) == 1 && c != '\n') line += c;
    for (std::size_t i = 0; i + 1 < line.size() && line[0] != 'F'; i += 2)
      address += static_cast<char>(std::stoi(line.substr(i, 2), nullptr, 16));
    if (address.empty()) need(result<void>(fail(ec::internal, "the owner says: " + line)));
  }
  ~owner_process() {
    ::close(to_);
    for (int i = 0; i < 300 && ::waitpid(pid_, nullptr, WNOHANG) == 0; ++i)
      std::this_thread::sleep_for(10ms);
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::close(from_);
  }
  void kill() { ::kill(pid_, SIGKILL); }
  std::string address;

 private:
  pid_t pid_ = -1;
  int to_ = -1, from_ = -1;
};

// -- figures ----------------------------------------------------------------------------------------------------------

// GB/s of pulls of `pieces` blocks with `depth` of them under way.
double pull_speed(kv_end& reader, std::size_t pieces, std::size_t depth, bool checksum,
                  std::chrono::milliseconds length) {
  std::uint64_t next = 1, before_bytes = 0;
  {
    std::lock_guard lock(reader.mutex);
    reader.done = reader.bytes = reader.bad = reader.failed = 0;
  }
  auto start = clock::now();
  bool warm = false;
  for (;;) {
    const auto now = clock::now();
    if (!warm && now - start > length / 4) {
      std::lock_guard lock(reader.mutex);
      before_bytes = reader.bytes;
      start = now;
      warm = true;
    }
    if (warm && now - start > length) break;
    std::unique_lock lock(reader.mutex);
    const std::uint64_t running = next - 1 - reader.done;
    if (running < depth) {
      lock.unlock();
      need(reader.pull(next++, pieces, checksum));
    } else {
      reader.changed.wait_for(lock, 1s);
    }
  }
  std::uint64_t moved = 0;
  {
    std::lock_guard lock(reader.mutex);
    moved = reader.bytes - before_bytes;
  }
  const double seconds = std::chrono::duration<double>(clock::now() - start).count();
  reader.wait([&] { return reader.done == next - 1; }, 30s);
  if (reader.bad + reader.failed > 0)
    std::printf("  FAILED: %llu blocks and %llu pulls: %s\n",
                static_cast<unsigned long long>(reader.bad),
                static_cast<unsigned long long>(reader.failed), to_string(reader.failure).c_str());
  return static_cast<double>(moved) / seconds / 1e9;
}

// The limit: one large copy of the same memory, opened by the same call.
double bulk_speed(std::byte* to, const std::byte* from, std::size_t bytes) {
  cudaStream_t stream = nullptr;
  cudaEvent_t start = nullptr, stop = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaEventCreate(&start);
  cudaEventCreate(&stop);
  double best = 0;
  for (int i = 0; i < 6; ++i) {
    cudaEventRecord(start, stream);
    cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
    cudaEventRecord(stop, stream);
    need(checked(cudaEventSynchronize(stop), "a bulk copy"));
    float ms = 0;
    cudaEventElapsedTime(&ms, start, stop);
    best = std::max(best, static_cast<double>(bytes) / ms / 1e6);
  }
  cudaStreamDestroy(stream);
  return best;
}

std::string owner_device, reader_device = "cuda:0";

void connect(kv_end& reader, const owner_process& owner) {
  need(reader.link->connect(owner_id, owner.address));
  if (!reader.wait([&] { return reader.via != path::none || reader.down; }, 10s) || reader.down)
    need(result<void>(fail(ec::peer_lost, "the owner does not answer")));
}

struct way_to_copy {
  std::string name;
  unsigned lanes = 2;
  std::size_t batch = 32;
  bool polled = true;
  device_memory_options options() const {
    device_memory_options made = need(parse_copy_way(name));
    made.lanes = lanes;
    made.polled = polled;
    return made;
  }
  std::string text() const {
    return name + ", " + std::to_string(lanes) + " lanes of " + std::to_string(batch) +
           (polled ? "" : ", not polled");
  }
};
std::vector<way_to_copy> chosen_ways;  // by the command line
double bulk = 0;                       // GB/s
way_to_copy best_of_engines{"coalesced"}, best_of_kernels{"fused:16x256"};
double speed_of_engines = 0, speed_of_kernels = 0;

std::vector<way_to_copy> ways_to_measure() {
  if (!chosen_ways.empty()) return chosen_ways;
  return {{"plain", 8, 8, false},  // as it was at first
          {"plain", 8, 8},        {"coalesced", 4},        {"batched", 4},
          {"kernel:16x256"},      {"fused:8x256"},         {"fused:16x256"},
          {"fused:32x256"},       {"fused:16x256", 4, 16}, {"fused:16x256", 8, 8}};
}

// One line: pulls alone, with what a pull takes, and four at a time; verified, and not.
void measure_way(const way_to_copy& way, const owner_process& owner) {
  kv_end reader(reader_id, reader_device, {}, way.options(), way.batch);
  connect(reader, owner);
  if (reader.via != path::cuda_ipc) {
    std::printf("SLOW PATH: %s -> %s goes over %s\n", owner_device.c_str(), reader_device.c_str(),
                std::string(to_string(reader.via)).c_str());
    return;
  }
  if (bulk == 0) {
    const auto address = need(decode_address(owner.address));
    const auto* opened =
        need(reader.memory->open(address.regions[0].device_share, address.regions[0].bytes));
    bulk = bulk_speed(reader.arena.data, opened, reader.arena.bytes);
    std::printf("%s -> %s, bulk copy of %zu MiB: %.1f GB/s\n", owner_device.c_str(),
                reader_device.c_str(), reader.arena.bytes >> 20, bulk);
  }
  std::printf("%s\n", way.text().c_str());
  for (const bool randomly : {false, true}) {
    reader.scatter(randomly);
    std::printf("  %s", randomly ? "random  " : "in order");
    for (const std::size_t pieces : {1u, 8u, 32u}) {
      const double alone = pull_speed(reader, pieces, 1, true, 80ms);
      std::printf(" | %zu alone %.0f us %2.0f %%", pieces,
                  static_cast<double>(pieces * block_stride) / alone / 1e3, 100 * alone / bulk);
    }
    const double verified = pull_speed(reader, 32, 4, true, 200ms);
    const double plain = pull_speed(reader, 32, 4, false, 120ms);
    std::printf(" | 4 x 32: %.1f GB/s (%.0f %%), unverified %.1f (%.0f %%)\n", verified,
                100 * verified / bulk, plain, 100 * plain / bulk);
    const bool by_kernel = way.name.starts_with("fused") || way.name.starts_with("kernel");
    double& best = by_kernel ? speed_of_kernels : speed_of_engines;
    if (randomly && verified > best) {
      best = verified;
      (by_kernel ? best_of_kernels : best_of_engines) = way;
    }
    std::fflush(stdout);
  }
}

void bench_pull() {
  owner_process owner(owner_device, "");
  std::printf("pulls of blocks of 2 MiB, verified if not said; shares of the bulk copy\n");
  for (const auto& way : ways_to_measure()) measure_way(way, owner);
  std::printf("best at random, verified: %s (%.1f GB/s); %s (%.1f GB/s)\n",
              best_of_engines.text().c_str(), speed_of_engines, best_of_kernels.text().c_str(),
              speed_of_kernels);
}

void bench_staged() {
  struct {
    const char *owner, *reader, *forced;
  } cases[] = {{owner_device.c_str(), reader_device.c_str(), "staged_tcp"},
               {"cpu", reader_device.c_str(), ""},
               {owner_device.c_str(), "cpu", ""}};
  for (const auto& c : cases) {
    owner_process owner(c.owner, c.forced);
    std::optional<path> way;
    if (*c.forced != 0) way = path::staged_tcp;
    kv_end reader(reader_id, c.reader, way);
    connect(reader, owner);
    const double speed = pull_speed(reader, 32, 2, true, 600ms);
    std::printf("%s -> %s over %s: %.2f GB/s, verified\n", c.owner, c.reader,
                std::string(to_string(reader.via)).c_str(), speed);
    std::fflush(stdout);
  }
}

// The owner is killed while its memory is read; the reader must end its pulls, and serve on with the same context.
void bench_kill(const way_to_copy& way) {
  std::printf("%s\n", way.text().c_str());
  kv_end reader(reader_id, reader_device, {}, way.options(), way.batch);
  std::uint64_t op = 1;
  int ended_early = 0;
  for (const int after_us : {0, 200, 1000, 5000, 20000}) {
    owner_process owner(owner_device, "");
    {
      std::lock_guard lock(reader.mutex);
      reader.via = path::none;
      reader.down = false;
      reader.done = reader.failed = reader.bad = 0;
    }
    connect(reader, owner);
    const int pulls = 64;
    for (int i = 0; i < pulls; ++i) need(reader.pull(op++, 32, true));
    std::this_thread::sleep_for(std::chrono::microseconds(after_us));
    owner.kill();
    const bool all = reader.wait([&] { return reader.done == pulls; }, 30s);
    ended_early += reader.failed > 0 ? 1 : 0;
    std::printf("killed after %d us: %s, %llu of %d pulls whole, %llu blocks bad\n", after_us,
                all ? "every pull ended" : "FAILED: pulls hang",
                static_cast<unsigned long long>(reader.done - reader.failed), pulls,
                static_cast<unsigned long long>(reader.bad));
    reader.link->disconnect(owner_id);
    reader.wait([&] { return reader.down; }, 10s);
    need(checked(cudaDeviceSynchronize(), "using the GPU after a peer was killed"));
  }
  owner_process next(owner_device, "");
  {
    std::lock_guard lock(reader.mutex);
    reader.via = path::none;
    reader.down = false;
  }
  connect(reader, next);
  std::printf("after %d kills a new owner is read at %.1f GB/s\n", ended_early,
              pull_speed(reader, 32, 4, true, 300ms));
}

std::vector<way_to_copy> ways_to_kill() {
  if (!chosen_ways.empty()) return chosen_ways;
  return {{"plain", 8, 8, false}, {"batched"}, {"fused:16x256"}};
}

double percentile(std::vector<double> v, double p) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[static_cast<std::size_t>(p * static_cast<double>(v.size() - 1))];
}

// Decode steps of Llama-3-8B's shape on the reader's GPU, alone and while blocks are pulled at full speed.
void bench_decode(std::uint32_t sequences, std::uint32_t context) {
  runner_options options;
  options.device = reader_device;
  options.max_batch_tokens = 512;
  options.max_batch_sequences = std::max(sequences, 8u);
  auto runner = need(make_synthetic_runner("llama-3-8b", options));
  const std::uint32_t each = runner->layout().blocks_for(context + 1), count = each * sequences;
  const auto kv = need(runner->allocate_kv(count));
  need(runner->attach_kv(kv, count));
  std::vector<std::vector<block_id>> tables(sequences);
  std::vector<token_id> token{5};
  std::vector<sequence_rows> rows;
  for (std::uint32_t s = 0; s < sequences; ++s) {
    for (std::uint32_t i = 0; i < each; ++i) tables[s].push_back(s * each + i);
    rows.push_back({token, context, tables[s], 1});
  }
  const std::vector<row_sampling> greedy(sequences);  // drawn on the device: no logits come back
  const auto steps = [&](int n) {
    std::vector<double> ms;
    double on_device = 0;
    const auto begin = clock::now();
    for (int i = 0; i < n; ++i) {
      const auto start = clock::now();
      const auto out = need(runner->forward({rows, greedy}));
      on_device += out.device_seconds;
      ms.push_back(std::chrono::duration<double>(clock::now() - start).count() * 1e3);
    }
    const double wall = std::chrono::duration<double>(clock::now() - begin).count();
    std::printf("p50 %.3f p99 %.3f ms (p99/p50 %.3f), GPU idle between steps %.2f %%\n",
                percentile(ms, 0.5), percentile(ms, 0.99),
                percentile(ms, 0.99) / percentile(ms, 0.5), 100 * (1 - on_device / wall));
    std::fflush(stdout);
    return percentile(ms, 0.5);
  };
  for (int i = 0; i < 20; ++i) need(runner->forward({rows, greedy}));
  std::printf("decode, %u sequences at %u, alone:               ", sequences, context);
  const double alone = steps(300);
  owner_process owner(owner_device, "");
  auto ways = chosen_ways;
  if (ways.empty()) ways = {{"plain", 8, 8, false}, best_of_engines, best_of_kernels};
  for (const auto& way : ways) {
    kv_end reader(reader_id, reader_device, {}, way.options(), way.batch);
    connect(reader, owner);
    reader.scatter(true);
    std::printf("  %s, blocks at random\n", way.text().c_str());
    std::atomic<bool> stop{false};
    std::atomic<double> speed{0};
    for (const std::size_t depth : {1u, 4u}) {
      stop = false;
      std::thread puller([&] {
        while (!stop) speed = pull_speed(reader, 32, depth, true, 200ms);
      });
      std::this_thread::sleep_for(300ms);
      std::printf("    %zu pulls under way: ", depth);
      const double during = steps(200);
      stop = true;
      puller.join();
      std::printf("      p50 against alone %.3f, pulls at %.1f GB/s\n", during / alone,
                  speed.load());
    }
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda

int main(int argc, char** argv) {
  using namespace troupe::gpu::cuda;
  if (argc == 4 && std::strcmp(argv[1], "owner") == 0) return run_owner(argv[2], argv[3]);
  bool any = false, same = false;
  constexpr const char* phases[] = {"pull", "kill", "staged", "decode"};
  const auto wants = [&](const char* what) {
    return !any || std::any_of(argv + 1, argv + argc,
                               [&](const char* a) { return std::strcmp(a, what) == 0; });
  };
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "same")
      same = true;
    else if (std::find(std::begin(phases), std::end(phases), argument) != std::end(phases))
      any = true;
    else
      chosen_ways.push_back({argument});
  }
  // In this process no device is opened before the owners were started as processes of their own.
  int count = 0;
  need(checked(cudaGetDeviceCount(&count), "looking for GPUs"));
  owner_device = count > 1 && !same ? "cuda:1" : "cuda:0";
  if (wants("pull")) bench_pull();
  if (wants("kill")) {
    for (const auto& way : ways_to_kill()) bench_kill(way);
  }
  if (wants("staged")) bench_staged();
  if (wants("decode")) {
    bench_decode(8, 1024);
    bench_decode(64, 1024);
  }
  return 0;
}
