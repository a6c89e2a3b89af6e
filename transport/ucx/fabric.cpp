#include "transport/ucx/fabric.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <mutex>
#include <thread>

#include "base/log.hpp"
#include "base/secrets.hpp"
#include "transport/ucx/progress.hpp"

namespace troupe::transport {
namespace {

using ucx::registered_memory;

// How long close() waits for UCX to end what is under way; a forced close ends within milliseconds.
constexpr std::chrono::seconds close_timeout{5};
constexpr std::chrono::milliseconds close_tick{10};  // between two looks

// A device's batch takes tens of microseconds and a sleep as long again, so this thread asks without sleeping for so long;
// after that, a batch that hangs costs a look a millisecond.
constexpr std::chrono::microseconds device_spin{500};
constexpr std::chrono::milliseconds device_tick{1};

// The shell: a thread, a queue of commands and an event fd around ucx::progress.
class ucx_fabric final : public fabric {
 public:
  ucx_fabric(const ucx_options& options, event_sink sink)
      : options_(options), sink_(std::move(sink)), book_(options.max_pulls) {}
  ~ucx_fabric() override {
    close();
    if (wake_fd_ >= 0) ::close(wake_fd_);
  }

  result<void> start() {
    wake_fd_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_fd_ < 0) return fail(ec::io_error, "eventfd: no file descriptor left");
    inbox_ = std::make_shared<ucx::inbox>(wake_fd_);
    if (!inbox_->wakes()) return fail(ec::io_error, "eventfd: no file descriptor left");
    std::promise<result<void>> started;
    auto outcome = started.get_future();
    thread_ = std::thread([this, &started] { run(started); });
    return outcome.get();
  }

  incarnation self() const override { return options_.self; }

  result<region> allocate(std::size_t bytes) override {
    if (bytes == 0) return fail(ec::invalid_argument, "a region of nothing");
    TROUPE_TRY(shared_memory memory, shared_memory::make(bytes));
    region made{region_id{}, memory.data(), bytes, memory_kind::host};
    return add_region(made, std::make_shared<shared_memory>(std::move(memory)));
  }

  result<region> register_memory(void* data, std::size_t bytes, memory_kind kind) override {
    if (bytes == 0 || data == nullptr) return fail(ec::invalid_argument, "a region of nothing");
    if (kind == memory_kind::cuda && options_.device == nullptr)
      return fail(ec::unsupported, "device memory without its device");
    return add_region({region_id{}, static_cast<std::byte*>(data), bytes, kind}, nullptr);
  }

  result<std::string> local_address() override {
    std::lock_guard lock(mutex_);
    if (book_.closed()) return fail(ec::canceled, "the transport is closed");
    return encode(address_);
  }

  result<void> connect(incarnation peer, std::string_view text) override {
    TROUPE_TRY(node_address address, decode_address(text));
    if (address.owner != peer)
      return fail(ec::peer_lost, "the address is of another start of that node");
    if (address.worker.size() < 8)
      return fail(ec::invalid_argument, "the transport address names no worker");
    return post_unless_closed([&]() -> result<command> {
      TROUPE_TRY(bool is_new, book_.connecting(peer, address));
      if (!is_new) return command{};
      return command([this, address = std::move(address)]() mutable {
        progress_->connect(std::move(address), clock::now());
      });
    });
  }

  void disconnect(incarnation peer) override {
    post([this, peer] { progress_->disconnect(peer); });
  }

  result<void> pull(pull_request request) override {
    return post_unless_closed([&]() -> result<command> {
      TROUPE_CHECK(book_.admit(request, clock::now()));
      return command([this, request = std::move(request)]() mutable {
        progress_->start(std::move(request), clock::now());
      });
    });
  }

  void cancel(op_id op) override {
    post([this, op] { progress_->cancel(op, clock::now()); });
  }

  fabric_stats stats() const override { return book_.stats(clock::now()); }

  void close() override {
    TROUPE_ASSERT(running_here != this);
    std::lock_guard lock(close_mutex_);
    if (!thread_.joinable()) return;
    post([this] { closing_ = true; }, true);
    thread_.join();
  }

 private:
  using command = std::function<void()>;

  void post(command c, bool is_last = false) {
    {
      std::lock_guard lock(mutex_);
      if (is_last) book_.close();
      commands_.push_back(std::move(c));
    }
    wake();
  }

  // What was accepted is in the queue before the last command, so it gets its completion. `make`
  // may give an empty command: there is nothing to do.
  template <class Make>
  result<void> post_unless_closed(Make make) {
    {
      std::lock_guard lock(mutex_);
      if (book_.closed()) return fail(ec::canceled, "the transport is closed");
      TROUPE_TRY(command c, make());
      if (c == nullptr) return {};
      commands_.push_back(std::move(c));
    }
    wake();
    return {};
  }

  void wake() {
    std::uint64_t one = 1;
    // Fails only when the counter is full, and then the thread is awake.
    [[maybe_unused]] auto written = ::write(wake_fd_, &one, sizeof one);
  }

  void run_commands() {
    std::vector<command> batch;
    {
      std::lock_guard lock(mutex_);
      batch.swap(commands_);
    }
    for (command& c : batch) c();
  }

  using shared_owner = std::shared_ptr<shared_memory>;

  result<region> add_region(region made, shared_owner memory) {
    if (running_here == this) return publish(made, std::move(memory));
    auto published = std::make_shared<std::promise<result<region>>>();
    auto outcome = published->get_future();
    TROUPE_CHECK(post_unless_closed([&]() -> result<command> {
      return command([=, this] { published->set_value(publish(made, memory)); });
    }));
    return outcome.get();
  }

  // Progress thread.
  result<region> publish(region made, shared_owner memory) {
    if (closing_) return fail(ec::canceled, "the transport is closed");
    published_region shown{
        reinterpret_cast<std::uint64_t>(made.data), made.bytes, made.kind, {}, {}, {}};
    if (memory != nullptr) shown.share = memory->name();
    if (made.kind == memory_kind::cuda) {
      auto shared = options_.device->share(made.data, made.bytes);
      if (shared)
        shown.device_share = std::move(*shared);
      else
        spdlog::warn("KV blocks of {} go to peers through host memory, slowly: {}",
                     options_.device->description(), shared.error().detail);
    }
    if (worker_->serves_gets(made.kind)) {
      TROUPE_TRY(registered_memory registered, worker_->map(made.data, made.bytes, made.kind));
      shown.key = registered.key;
      registered_.push_back(std::move(registered));
    }
    made.id = book_.next_region();
    book_.add_region(made);
    if (memory != nullptr) arenas_.push_back(std::move(memory));
    std::lock_guard lock(mutex_);
    address_.regions.push_back(std::move(shown));
    return made;
  }

  // Progress thread.
  result<void> open_worker() {
    TROUPE_TRY(worker_, ucx::worker::make(options_));
    node_address made{options_.self, {}, host_identity(), worker_->address(), {}};
    fill_random(made.nonce);
    const hello_key key = key_of(made, options_.secret);
    {
      std::lock_guard lock(mutex_);
      address_ = std::move(made);
    }
    progress_ = std::make_unique<ucx::progress>(options_, key, *worker_, book_, sink_, inbox_);
    return progress_->listen();
  }

  void run(std::promise<result<void>>& started) {
    running_here = this;
    auto opened = open_worker();
    bool well = opened.has_value();
    started.set_value(std::move(opened));  // `started` is gone after this
    if (!well) {
      release();
      return;
    }
    for (run_commands(); !closing_; run_commands())
      if (!progress_->round(clock::now()))
        rest();
      else
        asking_since_.reset();
    shut_down();
  }

  void rest() {
    if (options_.device == nullptr || options_.device->polled() == 0) {
      asking_since_.reset();
      return sleep();
    }
    const time_point now = clock::now();
    if (!asking_since_) asking_since_ = now;
    if (now - *asking_since_ < device_spin) return std::this_thread::yield();
    sleep();
  }

  // Until something happens, a deadline passes, or `latest`.
  void sleep(std::optional<time_point> latest = {}) {
    if (!worker_->arm()) return;
    pollfd watched[] = {{worker_->event_fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    timespec wait{}, *limit = nullptr;
    auto next = progress_->next_deadline();
    if (options_.device != nullptr && options_.device->polled() > 0)
      next = std::min(next.value_or(time_point::max()), clock::now() + device_tick);
    if (latest) next = std::min(next.value_or(time_point::max()), *latest);
    if (next) {
      auto left = std::max(*next - clock::now(), clock::duration::zero());
      wait.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(left).count();
      wait.tv_nsec = (left % std::chrono::seconds(1)).count();
      limit = &wait;
    }
    ::ppoll(watched, 2, limit, nullptr);
    std::uint64_t count;
    [[maybe_unused]] auto got = ::read(wake_fd_, &count, sizeof count);
  }

  void shut_down() {
    time_point give_up = clock::now() + close_timeout;
    run_commands();
    progress_->close_all();
    while (!progress_->idle() && clock::now() < give_up) {
      // Only this tells the end of a batch that serves a peer, if the device is lost.
      if (options_.device != nullptr) options_.device->poll();
      if (!progress_->round(clock::now()) && !progress_->idle())
        sleep(std::min(give_up, clock::now() + close_tick));
    }
    if (progress_->idle()) return release();
    // Something may still write into our memory: keep it, and what it belongs to, until the process
    // ends.
    spdlog::error("transport: UCX did not end its requests within {} s; memory stays mapped",
                  close_timeout.count());
    static_cast<void>(progress_.release());
    static_cast<void>(worker_.release());
    for (shared_owner& arena : arenas_) new shared_owner(std::move(arena));
  }

  void release() {
    progress_.reset();
    for (const registered_memory& memory : registered_) worker_->unmap(memory);
    registered_.clear();
    worker_.reset();
    arenas_.clear();
  }

  const ucx_options options_;
  const event_sink sink_;
  ledger book_;
  int wake_fd_ = -1;
  std::shared_ptr<ucx::inbox> inbox_;
  std::mutex close_mutex_;

  std::mutex mutex_;  // guards the two below
  std::vector<command> commands_;
  node_address address_;

  // Progress thread only.
  bool closing_ = false;
  std::optional<time_point> asking_since_;  // without an end, of a device's batches
  std::vector<registered_memory> registered_;
  std::vector<shared_owner> arenas_;
  std::unique_ptr<ucx::worker> worker_;
  std::unique_ptr<ucx::progress> progress_;
  std::thread thread_;  // started once, joined under close_mutex_

  // The fabric whose progress thread this is. Others may join `thread_` meanwhile, so its id is not asked.
  static thread_local const ucx_fabric* running_here;
};

thread_local const ucx_fabric* ucx_fabric::running_here = nullptr;

}  // namespace

result<std::unique_ptr<fabric>> make_ucx_fabric(const ucx_options& options, event_sink sink) {
  TROUPE_ASSERT(sink != nullptr);
  auto made = std::make_unique<ucx_fabric>(options, std::move(sink));
  TROUPE_CHECK(made->start());
  return made;
}

}  // namespace troupe::transport
