#include "tests/transport/child.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <iostream>
#include <thread>

#include "tests/transport/harness.hpp"
#include "transport/fence.hpp"

namespace troupe::transport::testing {

child::child(const std::string& role, const std::string& transports, const std::string& path) {
  int down[2], up[2];
  if (::pipe(down) != 0 || ::pipe(up) != 0) std::abort();
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(down[0], 0);
    ::dup2(up[1], 3);  // standard output belongs to the test framework
    for (int fd = 4; fd < 256; ++fd) ::close(fd);
    ::setenv("TROUPE_TEST_PATH", path.c_str(), 1);
    if (!transports.empty()) ::setenv("UCX_TLS", transports.c_str(), 1);
    std::string filter = "--gtest_filter=child.DISABLED_" + role;
    ::execl("/proc/self/exe", "test_transport", filter.c_str(), "--gtest_also_run_disabled_tests",
            "--gtest_brief=1", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  ::close(down[0]);
  ::close(up[1]);
  to_ = down[1];
  from_ = up[0];
}

child::~child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(to_);
  ::close(from_);
}

void child::say(const std::string& line) {
  std::string text = line + '\n';
  if (::write(to_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) std::abort();
}

std::string child::hear(std::chrono::milliseconds limit) {
  auto end = clock::now() + limit;
  for (;;) {
    if (auto n = heard_.find('\n'); n != heard_.npos) {
      std::string line = heard_.substr(0, n);
      heard_.erase(0, n + 1);
      return line;
    }
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - clock::now()).count();
    pollfd watched{from_, POLLIN, 0};
    if (left <= 0 || ::poll(&watched, 1, static_cast<int>(left)) <= 0) return {};
    char text[4096];
    ssize_t n = ::read(from_, text, sizeof text);
    if (n <= 0) return {};
    heard_.append(text, static_cast<std::size_t>(n));
  }
}

void child::signal(int number) {
  ::kill(pid_, number);
}

int child::wait() {
  for (int i = 0; i < 6000; ++i) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return status;
    }
    std::this_thread::sleep_for(10ms);
  }
  return -1;
}

std::string to_hex_text(const std::string& bytes) {
  std::string text;
  for (unsigned char c : bytes) {
    text += "0123456789abcdef"[c >> 4];
    text += "0123456789abcdef"[c & 15];
  }
  return text;
}

std::string from_hex_text(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    bytes += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return bytes;
}

namespace {

void tell(const std::string& line) {
  std::string text = line + '\n';
  if (::write(3, text.data(), text.size()) < 0) ::_exit(1);
}

std::unique_ptr<fabric> child_fabric(incarnation self, event_sink sink) {
  ucx_options options;
  options.self = self;
  options.force_path = path_named(std::getenv("TROUPE_TEST_PATH"));
  auto made = make_ucx_fabric(options, std::move(sink));
  if (!made) {
    tell("failed " + to_string(made.error()));
    ::_exit(1);
  }
  return std::move(*made);
}

// Roles, not tests: run only in child processes.

// Owns 64 MiB in which the 64-bit word at offset 8 i is i, shows it, waits to be told to end.
TEST(child, DISABLED_owner) {
  auto f = child_fabric(incarnation{0xB0B}, [](event&&) {});
  region r = f->allocate(64 << 20).value();
  for (std::uint64_t i = 0; i < r.bytes / 8; ++i) std::memcpy(r.data + 8 * i, &i, 8);
  tell(to_hex_text(f->local_address().value()));
  std::string line;
  std::getline(std::cin, line);
  f->close();
  tell("closed");
}

// Connects to the address that it is told and pulls without pause; says what happens.
TEST(child, DISABLED_reader) {
  recorder events;
  auto f = child_fabric(incarnation{0xFEED}, events.sink());
  region r = f->allocate(16 << 20).value();
  tell("ready");
  std::string line;
  std::getline(std::cin, line);
  std::string address = from_hex_text(line);
  std::getline(std::cin, line);
  incarnation owner{std::stoull(line)};
  if (auto ok = f->connect(owner, address); !ok) tell("refused " + to_string(ok.error()));
  tell("connecting");
  for (std::uint64_t op = 0;; ++op) {
    pull_request request{op_id{op},          owner, region_id{0}, r.id, {{0, 0, r.bytes}},
                         clock::now() + 10s, false};
    if (!f->pull(std::move(request))) break;
    if (!events.wait([&] { return events.done().size() > op; }, 20s)) break;
    if (!events.done().back().outcome) break;
    if (op == 0) tell("pulling");
  }
  tell("ended");
}

}  // namespace
}  // namespace troupe::transport::testing
