#include "transport/bench.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include "transport/checksum.hpp"
#include "transport/fence.hpp"
#include "transport/page_toucher.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::transport {
namespace {

constexpr incarnation owner_id{0x0E0E}, reader_id{0x1F1F};
constexpr std::uint64_t layout = 0xBE7C;
constexpr std::chrono::seconds pull_deadline{20};
// For what a fabric does in idle moments after a peer came.
constexpr std::chrono::milliseconds preparation{200};

result<std::unique_ptr<fabric>> make_side(incarnation self, path via, event_sink sink) {
  ucx_options options;
  options.self = self;
  options.force_path = via;
  return make_ucx_fabric(options, std::move(sink));
}

block_tag tag_of(std::size_t block) {
  return {owner_id, block + 1, layout, 16};
}

// The child: owns sealed blocks until its standard input ends. Never returns.
[[noreturn]] void run_owner(const kv_bench_options& options, int to_parent, int from_parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto side = make_side(owner_id, options.via, [](event&&) {});
  if (!side) ::_exit(1);
  auto arena = (*side)->allocate(options.arena_bytes);
  if (!arena) ::_exit(1);
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i + 8 <= arena->bytes; i += 8) {
    std::uint64_t word = random();
    std::memcpy(arena->data + i, &word, 8);
  }
  for (std::size_t i = 0; i < options.arena_bytes / options.block_bytes; ++i)
    seal(arena->span().subspan(i * options.block_bytes, options.block_bytes), tag_of(i));
  std::string address = (*side)->local_address().value();
  auto size = static_cast<std::uint32_t>(address.size());
  if (::write(to_parent, &size, sizeof size) < 0) ::_exit(1);
  if (::write(to_parent, address.data(), size) < 0) ::_exit(1);
  char wait;
  while (::read(from_parent, &wait, 1) > 0) continue;
  (*side)->close();
  ::_exit(0);
}

class owner_process {
 public:
  explicit owner_process(const kv_bench_options& options) {
    int down[2], up[2];
    if (::pipe(down) != 0 || ::pipe(up) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(down[1]);
      run_owner(options, up[1], down[0]);
    }
    ::close(down[0]);
    ::close(up[1]);
    to_ = down[1];
    from_ = up[0];
  }
  ~owner_process() {
    ::close(to_);
    ::close(from_);
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  }
  owner_process(const owner_process&) = delete;
  owner_process& operator=(const owner_process&) = delete;

  std::string address() {
    std::uint32_t size = 0;
    std::string text;
    if (::read(from_, &size, sizeof size) != sizeof size || size > (1u << 20)) return text;
    while (text.size() < size) {
      char part[4096];
      ssize_t n = ::read(from_, part, std::min<std::size_t>(sizeof part, size - text.size()));
      if (n <= 0) return {};
      text.append(part, static_cast<std::size_t>(n));
    }
    return text;
  }

 private:
  pid_t pid_ = -1;
  int to_ = -1, from_ = -1;
};

// Keeps some pulls under way until the time is up.
class reader {
 public:
  explicit reader(const kv_bench_options& options) : options_(options) {}

  result<kv_bench_result> run(const std::string& address) {
    TROUPE_TRY(side_,
               make_side(reader_id, options_.via, [this](event&& e) { hear(std::move(e)); }));
    TROUPE_TRY(target_, side_->allocate(options_.arena_bytes));
    TROUPE_CHECK(prepare());
    TROUPE_CHECK(side_->connect(owner_id, address));
    if (options_.memory == bench_memory::prepared) std::this_thread::sleep_for(preparation);
    kv_bench_result figures;
    std::vector<double> times;
    std::uint64_t bytes = 0, under_way = 0;
    const bool is_warm = options_.memory == bench_memory::warm;
    std::size_t left = is_warm
                           ? ~std::size_t{0}
                           : options_.arena_bytes / options_.block_bytes / options_.blocks_per_pull;
    auto begin = clock::now(), end = is_warm ? begin + options_.duration : time_point::max();
    while ((clock::now() < end && left > 0) || under_way > 0) {
      for (; under_way < options_.pulls_under_way && clock::now() < end && left > 0;
           ++under_way, --left)
        TROUPE_CHECK(pull());
      TROUPE_TRY(pull_done done, next());
      TROUPE_CHECK(done.outcome);
      --under_way;
      ++figures.pulls;
      bytes += done.bytes;
      times.push_back(std::chrono::duration<double, std::micro>(done.duration).count());
      if (options_.verify) figures.fence_mismatches += mismatches(done);
      blocks_.erase(raw(done.op));
    }
    double seconds = std::chrono::duration<double>(clock::now() - begin).count();
    std::sort(times.begin(), times.end());
    figures.gigabytes_per_second = static_cast<double>(bytes) / seconds * 1e-9;
    figures.pull_p50_us = times[times.size() / 2];
    figures.pull_p99_us = times[times.size() * 99 / 100];
    side_->close();
    return figures;
  }

 private:
  result<void> prepare() {
    if (options_.memory == bench_memory::warm) std::memset(target_.data, 0, target_.bytes);
    if (options_.memory != bench_memory::prepared) return {};
    page_toucher toucher(target_.span(), target_.bytes);
    for (auto until = clock::now() + pull_deadline; toucher.touched() < target_.bytes;) {
      if (toucher.stopped()) return fail(ec::unsupported, "MADV_POPULATE_WRITE: Linux 5.14");
      if (clock::now() > until) return fail(ec::deadline_exceeded, "pages are not made");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return {};
  }

  void hear(event&& e) {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(e));
    heard_.notify_one();
  }

  result<pull_done> next() {
    for (;;) {
      std::unique_lock lock(mutex_);
      if (!heard_.wait_for(lock, pull_deadline, [&] { return !events_.empty(); }))
        return fail(ec::deadline_exceeded, "no event from the transport");
      event e = std::move(events_.front());
      events_.erase(events_.begin());
      if (auto* done = std::get_if<pull_done>(&e)) return std::move(*done);
      if (auto* down = std::get_if<peer_down>(&e)) return tl::unexpected(down->reason);
    }
  }

  result<void> pull() {
    std::size_t blocks = options_.arena_bytes / options_.block_bytes;
    pull_request request;
    request.op = op_id{next_op_};
    request.peer = owner_id;
    request.local = target_.id;
    request.checksum = options_.checksum;
    request.deadline = clock::now() + pull_deadline;
    for (std::size_t i = 0; i < options_.blocks_per_pull; ++i) {
      std::size_t to = next_block_++ % blocks;
      std::size_t from = options_.memory == bench_memory::warm ? random_() % blocks : to;
      request.pieces.push_back(
          {from * options_.block_bytes, to * options_.block_bytes, options_.block_bytes});
      blocks_[next_op_].push_back({from, to});
    }
    ++next_op_;
    return side_->pull(std::move(request));
  }

  std::uint64_t mismatches(const pull_done& done) {
    std::uint64_t count = 0;
    const auto& moved = blocks_[raw(done.op)];
    for (std::size_t i = 0; i < moved.size(); ++i) {
      auto copy =
          target_.span().subspan(moved[i].second * options_.block_bytes, options_.block_bytes);
      block_tag expected = tag_of(moved[i].first);
      bool good = options_.checksum ? verify(copy, expected, done.checksums[i]).has_value()
                                    : verify(copy, expected).has_value();
      count += good ? 0 : 1;
    }
    return count;
  }

  const kv_bench_options options_;
  std::unique_ptr<fabric> side_;
  region target_;
  std::mt19937_64 random_{2};
  std::uint64_t next_op_ = 0, next_block_ = 0;
  std::map<std::uint64_t, std::vector<std::pair<std::size_t, std::size_t>>> blocks_;
  std::mutex mutex_;
  std::condition_variable heard_;
  std::vector<event> events_;
};

std::string run_program(const std::string& command) {
  std::string text;
  FILE* out = ::popen(command.c_str(), "r");
  if (out == nullptr) return text;
  char part[512];
  while (std::fgets(part, sizeof part, out) != nullptr) text += part;
  ::pclose(out);
  return text;
}

}  // namespace

result<kv_bench_result> bench_kv(const kv_bench_options& options) {
  if (options.block_bytes <= fence_bytes || options.block_bytes % 64 != 0 ||
      options.arena_bytes / options.block_bytes < options.blocks_per_pull * options.pulls_under_way)
    return fail(ec::invalid_argument, "blocks must be multiples of 64 bytes and fit the arena");
  owner_process owner(options);
  std::string address = owner.address();
  if (address.empty()) return fail(ec::internal, "the owner process did not start");
  reader side(options);
  return side.run(address);
}

double memcpy_gigabytes_per_second(std::size_t block_bytes, std::size_t arena_bytes) {
  std::vector<std::byte> from(arena_bytes, std::byte{1}), to(arena_bytes, std::byte{2});
  std::size_t blocks = arena_bytes / block_bytes;
  std::mt19937_64 random(3);
  std::uint64_t bytes = 0;
  auto begin = clock::now();
  while (clock::now() < begin + std::chrono::milliseconds(200)) {
    for (std::size_t i = 0; i < 64; ++i, bytes += block_bytes)
      std::memcpy(to.data() + (bytes / block_bytes % blocks) * block_bytes,
                  from.data() + random() % blocks * block_bytes, block_bytes);
  }
  return static_cast<double>(bytes) / std::chrono::duration<double>(clock::now() - begin).count() *
         1e-9;
}

double checksum_gigabytes_per_second(std::size_t block_bytes, std::size_t arena_bytes) {
  std::vector<std::byte> from(arena_bytes, std::byte{1});
  std::size_t blocks = arena_bytes / block_bytes;
  std::mt19937_64 random(3);
  std::uint64_t bytes = 0, sum = 0;
  auto begin = clock::now();
  while (clock::now() < begin + std::chrono::milliseconds(200))
    for (std::size_t i = 0; i < 64; ++i, bytes += block_bytes)
      sum ^= checksum64({from.data() + random() % blocks * block_bytes, block_bytes});
  double seconds = std::chrono::duration<double>(clock::now() - begin).count();
  return sum == 1 ? 0 : static_cast<double>(bytes) / seconds * 1e-9;  // the sum is wanted
}

std::optional<double> ucx_perftest_get(path via, std::size_t bytes, unsigned outstanding,
                                       bool fresh) {
  if (run_program("command -v ucx_perftest").empty()) return std::nullopt;
  // The same settings as ours. UCX_TLS of this process does not matter: the test sets its own.
  std::string settings =
      "UCX_TCP_TX_SEG_SIZE=128K UCX_TCP_RX_SEG_SIZE=128K UCX_WARN_UNUSED_ENV_VARS=n "
      "UCX_NET_DEVICES=lo ";
  settings += via == path::shm ? "UCX_TLS=posix,self " : "UCX_TLS=tcp,self ";
  std::string port = std::to_string(20'000 + ::getpid() % 20'000);
  std::size_t count = fresh ? 1 : std::max<std::size_t>(8, (std::size_t{1} << 29) / bytes);
  std::string server = settings + "timeout 60 ucx_perftest -p " + port + " >/dev/null 2>&1 & ";
  std::string client = settings + "timeout 50 ucx_perftest 127.0.0.1 -p " + port +
                       " -t ucp_get -f -w " + (fresh ? "0" : "5") + " -O " +
                       std::to_string(outstanding) + " -s " + std::to_string(bytes) + " -n " +
                       std::to_string(count);
  std::string text = run_program(server + "sleep 0.5; " + client + " 2>/dev/null; wait");
  // "Final: iterations ... | bandwidth average, overall": the 6th number of that line, in MiB/s.
  // The last line is the summary: iterations, three latencies, two bandwidths in MiB/s, two rates.
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  auto line = text.rfind('\n');
  if (line == text.npos) return std::nullopt;
  double number[6] = {};
  int found = std::sscanf(text.c_str() + line, "%lf %lf %lf %lf %lf %lf", number, number + 1,
                          number + 2, number + 3, number + 4, number + 5);
  if (found != 6) return std::nullopt;
  return number[5] * 1048576e-9;
}

namespace {

// The best of some short runs: on a machine with other work the others measure that work.
constexpr int repeats = 5;
// One buffer that fits no cache, as KV does not.
constexpr std::size_t large_buffer = 64 << 20;

struct best_of {
  double value = 0;
  void hear(double now) { value = std::max(value, now); }
  std::string text() const {
    char out[16];
    std::snprintf(out, sizeof out, value > 0 ? "%.2f" : "-", value);
    return out;
  }
  std::string ratio_of(double mine) const {
    char out[16];
    std::snprintf(out, sizeof out, value > 0 ? "%.0f %%" : "-", 100 * mine / value);
    return out;
  }
};

struct figures {
  best_of summed, verified, plain, fresh, prepared;
  double p50_us = 0, p99_us = 0;
  best_of hot, large, large_fresh, copy, sum;  // ucx_perftest's, memcpy's, the checksum's
};

result<void> measure_once(kv_bench_options options, figures& f, int turn) {
  options.verify = true;
  TROUPE_TRY(auto checked, bench_kv(options));
  options.memory = bench_memory::fresh;
  TROUPE_TRY(auto fresh, bench_kv(options));
  options.memory = bench_memory::prepared;
  TROUPE_TRY(auto prepared, bench_kv(options));
  if (checked.fence_mismatches + fresh.fence_mismatches + prepared.fence_mismatches != 0)
    return fail(ec::fence_mismatch, "a pulled block was wrong");
  options.memory = bench_memory::warm;
  options.verify = false;
  TROUPE_TRY(auto summed, bench_kv(options));
  options.checksum = false;
  TROUPE_TRY(auto bare, bench_kv(options));
  if (summed.gigabytes_per_second > f.summed.value) {
    f.p50_us = summed.pull_p50_us;
    f.p99_us = summed.pull_p99_us;
  }
  f.summed.hear(summed.gigabytes_per_second);
  f.verified.hear(checked.gigabytes_per_second);
  f.plain.hear(bare.gigabytes_per_second);
  f.fresh.hear(fresh.gigabytes_per_second);
  f.prepared.hear(prepared.gigabytes_per_second);
  f.hot.hear(
      ucx_perftest_get(options.via, options.block_bytes, turn % 2 == 0 ? 1 : 16).value_or(0));
  f.large.hear(ucx_perftest_get(options.via, large_buffer, 1).value_or(0));
  f.large_fresh.hear(ucx_perftest_get(options.via, large_buffer, 1, true).value_or(0));
  f.copy.hear(memcpy_gigabytes_per_second(options.block_bytes, options.arena_bytes));
  f.sum.hear(checksum_gigabytes_per_second(options.block_bytes, options.arena_bytes));
  return {};
}

std::string report(path via, std::size_t block_bytes, const figures& f) {
  const double share = f.plain.value > 0 ? 1 - f.summed.value / f.plain.value : 0;
  char head[512];
  std::snprintf(head, sizeof head,
                "%s, blocks of %zu bytes (16 a pull, 4 pulls at once: %.0f us in the median, %.0f "
                "us at the 99th percentile)\n",
                std::string(to_string(via)).c_str(), block_bytes, f.p50_us, f.p99_us);
  std::string text = head;
  auto line = [&](const char* what, const best_of& mine, const best_of& theirs,
                  const char* theirs_is) {
    char out[256];
    std::snprintf(out, sizeof out, "  %-38s %7s GB/s | %-44s %7s | %s\n", what, mine.text().c_str(),
                  theirs_is, theirs.text().c_str(), theirs.ratio_of(mine.value).c_str());
    text += out;
  };
  line("warm, summed and verified", f.verified, f.large, "ucx_perftest, 64 MiB again and again");
  line("warm, summed", f.summed, f.hot, "ucx_perftest, one block again and again");
  line("warm, no checksum", f.plain, f.copy, "memcpy, one thread");
  line("first use, nothing prepared", f.fresh, f.large_fresh,
       "ucx_perftest, 64 MiB for the first time");
  line("first use, pages made ahead", f.prepared, f.large_fresh,
       "ucx_perftest, 64 MiB for the first time");
  char tail[256];
  std::snprintf(
      tail, sizeof tail,
      "  the checksum's share of a warm pull's time: %.1f %% (%s kernel: %s GB/s alone)\n",
      100 * share, checksum_kernel(), f.sum.text().c_str());
  return text + tail;
}

}  // namespace

result<std::string> bench_kv_report(const std::vector<std::size_t>& block_bytes) {
  std::string text = "The best of " + std::to_string(repeats) + " runs of each, in turn.\n";
  for (path via : {path::shm, path::tcp})
    for (std::size_t bytes : block_bytes) {
      kv_bench_options options;
      options.via = via;
      options.block_bytes = bytes;
      figures f;
      for (int i = 0; i < repeats; ++i) {
        // The report comes at the end, minutes later: meanwhile this tells that it is coming.
        std::fprintf(stderr, "%s, blocks of %zu bytes: run %d of %d\n",
                     std::string(to_string(via)).c_str(), bytes, i + 1, repeats);
        TROUPE_CHECK(measure_once(options, f, i));
      }
      text += report(via, bytes, f);
    }
  return text;
}

}  // namespace troupe::transport
