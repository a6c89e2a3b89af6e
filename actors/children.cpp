#include "actors/children.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/log.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// The command line's exit codes. A clean end is a node that was told to leave.
constexpr int exit_clean = 0, exit_configuration = 1, exit_model = 2, exit_device = 3,
              exit_restart = 75;

// A child finds the end of its pipe here, and that it is there in its environment.
constexpr int report_descriptor = 3;
constexpr const char* report_name = "PARENT_HEARS_TROUPE";

milliseconds pause(const restart_policy& p, int deaths) {
  if (deaths <= 0) return milliseconds(0);
  return std::min(p.longest_pause, p.first_pause * (1 << std::min(deaths - 1, 16)));
}

// This process's, with those of `instead` in place of what has their names; what its own parent hears is none of its
// children's business.
std::vector<std::string> environment_with(std::vector<std::string> instead) {
  const auto name_of = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  for (char** entry = environ; *entry; ++entry)
    if (name_of(*entry) != report_name &&
        std::none_of(instead.begin(), instead.end(),
                     [&](const std::string& i) { return name_of(i) == name_of(*entry); }))
      instead.emplace_back(*entry);
  return instead;
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return std::string("killed by signal ") + strsignal(WTERMSIG(status));
  return "exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

void report_up() {
  static std::atomic<bool> said{false};
  if (said.exchange(true) || !std::getenv(report_name)) return;
  // A parent that has gone does not mind.
  [[maybe_unused]] const auto written = ::write(report_descriptor, "1", 1);
  ::close(report_descriptor);
}

children::children(std::vector<child_command> commands, last_joined joined, restart_policy policy,
                   child_events events)
    : joined_(std::move(joined)), policy_(policy), events_(std::move(events)) {
  for (auto& c : commands) children_.emplace_back().command = std::move(c);
  thread_ = std::thread([this] { supervise(); });
}

children::~children() {
  stop(milliseconds(3000));
  if (thread_.joinable()) thread_.join();
}

void children::spawn(child& c) {
  std::string program = "troupe";  // what people see in a process list, whatever path was run
  std::vector<char*> argv{program.data()};
  for (auto& a : c.command.arguments) argv.push_back(a.data());
  argv.push_back(nullptr);
  auto environment = environment_with(c.command.environment);
  int ends[2] = {-1, -1};
  if (!joined_ && ::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0)
    environment.push_back(std::string(report_name) + "=1");
  std::vector<char*> envp;
  for (auto& e : environment) envp.push_back(e.data());
  envp.push_back(nullptr);
  c.started = steady_clock::now();
  c.before = joined_ ? joined_(c.command.name) : 0;
  c.up = false;
  const pid_t parent = getpid();
  c.pid = fork();
  if (c.pid != 0) {
    c.report = ends[0];
    if (ends[1] >= 0) ::close(ends[1]);
    if (c.pid < 0) forget_report(c), c.restart_at = c.started + milliseconds(500);
    return;
  }
  // In the child only what is safe after fork in a program with threads. The signal follows the death of the thread
  // that forked, which is the supervisor's and lives as long as the server.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // Listeners and clients' connections are the server's alone: held here they would outlive its closing them.
  close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  if (ends[1] == report_descriptor) ::fcntl(ends[1], F_SETFD, 0);
  if (ends[1] > report_descriptor) ::dup2(ends[1], report_descriptor);
  // Its own group: Ctrl-C at a terminal reaches the server only, which then drains its nodes in order.
  setpgid(0, 0);
  execve(c.command.binary.c_str(), argv.data(), envp.data());
  _exit(127);
}

void children::look_up(child& c) const {
  if (c.up) return;
  if (joined_) {
    const auto incarnation = joined_(c.command.name);
    c.up = incarnation != 0 && incarnation != c.before;
  } else if (c.report >= 0) {
    char word;
    c.up = ::read(c.report, &word, 1) == 1;
  }
  if (!c.up) return;
  c.was_up = true;
  c.came_up = steady_clock::now();
}

void children::forget_report(child& c) {
  if (c.report >= 0) ::close(std::exchange(c.report, -1));
}

void children::reap(child& c, int status) {
  c.pid = -1;
  if (!ending_) look_up(c);
  forget_report(c);
  if (ending_) return;
  if (WIFEXITED(status) && WEXITSTATUS(status) == exit_clean) {
    c.given_up = true;
    spdlog::info("{} has left", c.command.name);
    return;
  }
  const bool wished = WIFEXITED(status) && WEXITSTATUS(status) == exit_restart;
  c.early_deaths = c.up || wished ? 0 : c.early_deaths + 1;
  const bool lasted = c.up && steady_clock::now() - c.came_up > policy_.soon;
  c.soon_deaths = wished || lasted ? 0 : c.soon_deaths + (c.up ? 1 : 0);
  const bool refuses = WIFEXITED(status) &&
                       (WEXITSTATUS(status) == exit_configuration ||
                        WEXITSTATUS(status) == exit_model || WEXITSTATUS(status) == exit_device);
  // A process that lost its device may get it back when it starts anew, and one that was up may find the memory of its
  // predecessor not free yet: neither is given up at once.
  const bool often = c.early_deaths > policy_.max_early_deaths;
  if (c.was_up ? refuses && often : often || refuses) return give_up(c, status);
  const auto wait =
      pause(policy_, std::max(c.early_deaths, c.soon_deaths - policy_.max_soon_deaths));
  c.restart_at = steady_clock::now() + wait;
  spdlog::warn("{} ended: {}; it is restarted{}", c.command.name, how_it_ended(status),
               wait.count() > 0 ? fmt::format(" in {} ms", wait.count()) : "");
  if (events_.restarted) events_.restarted(c.command.name);
}

void children::give_up(child& c, int status) {
  c.given_up = true;
  if (events_.given_up) events_.given_up(c.command.name);
  const auto serves = [](const child& other) {
    return !other.given_up && other.command.name.starts_with("decode");
  };
  if (c.was_up && std::any_of(children_.begin(), children_.end(), serves)) {
    spdlog::error("{} does not start again ({}): the cluster goes on without it", c.command.name,
                  how_it_ended(status));
    return;
  }
  if (failure_) return;
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : exit_configuration;
  failure_ = error{
      code == exit_device  ? ec::device_lost
      : code == exit_model ? ec::corrupt_file
                           : ec::internal,
      c.command.name + " does not start (" + how_it_ended(status) + "): its messages are above"};
}

void children::supervise() {
  std::unique_lock lock(mutex_);
  for (;;) {
    bool running = false;
    for (auto& c : children_) {
      int status = 0;
      if (c.pid > 0 && !ending_) look_up(c);
      if (c.pid > 0 && waitpid(c.pid, &status, WNOHANG) == c.pid) reap(c, status);
      if (c.pid < 0 && !ending_ && !c.given_up && steady_clock::now() >= c.restart_at) spawn(c);
      running = running || c.pid > 0;
    }
    if (ending_ && !running) return;
    wake_.wait_for(lock, milliseconds(20));
  }
}

std::optional<error> children::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void children::terminate() {
  std::lock_guard lock(mutex_);
  ending_ = true;
  for (auto& c : children_)
    if (c.pid > 0) kill(c.pid, SIGTERM);
}

bool children::all_gone() const {
  std::lock_guard lock(mutex_);
  for (const auto& c : children_)
    if (c.pid > 0) return false;
  return true;
}

void children::stop(milliseconds grace) {
  terminate();
  const auto until = steady_clock::now() + grace;
  while (!all_gone() && steady_clock::now() < until) std::this_thread::sleep_for(milliseconds(10));
  std::lock_guard lock(mutex_);
  for (auto& c : children_)
    if (c.pid > 0) kill(c.pid, SIGKILL);
}

}  // namespace troupe::actors
