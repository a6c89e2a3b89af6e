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

#include "transport/fence.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::transport {
namespace {

constexpr incarnation owner_id{0x0E0E}, reader_id{0x1F1F};
constexpr std::uint64_t layout = 0xBE7C;
constexpr std::chrono::seconds pull_deadline{20};

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
    std::memset(target_.data, 0, target_.bytes);
    TROUPE_CHECK(side_->connect(owner_id, address));
    kv_bench_result figures;
    std::vector<double> times;
    std::uint64_t bytes = 0, under_way = 0;
    auto begin = clock::now(), end = begin + options_.duration;
    while (clock::now() < end || under_way > 0) {
      for (; under_way < options_.pulls_under_way && clock::now() < end; ++under_way)
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
      std::size_t from = random_() % blocks, to = next_block_++ % blocks;
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

std::optional<double> ucx_perftest_get(path via, std::size_t bytes, unsigned outstanding) {
  if (run_program("command -v ucx_perftest").empty()) return std::nullopt;
  // The same settings as ours. UCX_TLS of this process does not matter: the test sets its own.
  std::string settings =
      "UCX_TCP_TX_SEG_SIZE=128K UCX_TCP_RX_SEG_SIZE=128K UCX_WARN_UNUSED_ENV_VARS=n "
      "UCX_NET_DEVICES=lo ";
  settings += via == path::shm ? "UCX_TLS=posix,self " : "UCX_TLS=tcp,self ";
  std::string port = std::to_string(20'000 + ::getpid() % 20'000);
  std::size_t count = std::max<std::size_t>(8, (std::size_t{1} << 29) / bytes);
  std::string server = settings + "timeout 60 ucx_perftest -p " + port + " >/dev/null 2>&1 & ";
  std::string client = settings + "timeout 50 ucx_perftest 127.0.0.1 -p " + port +
                       " -t ucp_get -f -w 5 -O " + std::to_string(outstanding) + " -s " +
                       std::to_string(bytes) + " -n " + std::to_string(count);
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

result<std::string> report_line(path via, std::size_t block_bytes) {
  kv_bench_options options;
  options.via = via;
  options.block_bytes = block_bytes;
  kv_bench_result with_sum, plain, verified;
  double hot = 0, cold = 0, copy = 0;
  auto keep = [](kv_bench_result& best, const kv_bench_result& now) {
    if (now.gigabytes_per_second > best.gigabytes_per_second) best = now;
  };
  for (int i = 0; i < repeats; ++i) {
    options.checksum = true;
    options.verify = false;
    TROUPE_TRY(auto summed, bench_kv(options));
    options.verify = true;
    TROUPE_TRY(auto checked, bench_kv(options));
    if (checked.fence_mismatches != 0) return fail(ec::fence_mismatch, "a pulled block was wrong");
    options.checksum = options.verify = false;
    TROUPE_TRY(auto bare, bench_kv(options));
    keep(with_sum, summed);
    keep(verified, checked);
    keep(plain, bare);
    hot = std::max(hot, ucx_perftest_get(via, block_bytes, i % 2 == 0 ? 1 : 16).value_or(0));
    // One buffer that fits no cache, as KV does not.
    cold = std::max(cold, ucx_perftest_get(via, 64 << 20, 1).value_or(0));
    copy = std::max(copy, memcpy_gigabytes_per_second(block_bytes, options.arena_bytes));
  }
  double mine = with_sum.gigabytes_per_second;
  auto ratio = [&](double other) { return other > 0 ? mine / other : 0; };
  char line[256];
  std::snprintf(line, sizeof line,
                "%-5s %11zu %6.2f %8.2f %7.2f %8.0f %8.0f | %17.2f %6.2f %6.2f %6.2f | %6.2f\n",
                std::string(to_string(via)).c_str(), block_bytes, mine,
                verified.gigabytes_per_second, plain.gigabytes_per_second, with_sum.pull_p50_us,
                with_sum.pull_p99_us, hot, ratio(hot), cold, ratio(cold), copy);
  return std::string(line);
}

}  // namespace

result<std::string> bench_kv_report(const std::vector<std::size_t>& block_bytes) {
  std::string table =
      "path  block bytes   GB/s  +verify  no sum   p50 us   p99 us | perftest get: hot  ratio   "
      "cold  "
      "ratio | memcpy\n";
  for (path via : {path::shm, path::tcp})
    for (std::size_t bytes : block_bytes) {
      TROUPE_TRY(std::string line, report_line(via, bytes));
      table += line;
    }
  return table;
}

}  // namespace troupe::transport
