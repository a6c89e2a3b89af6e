// A round that gives back what others wait for must ask for another one by itself. The test is the progress thread here,
// so that no message, tick or keepalive can stand in for that.
#include <gtest/gtest.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/transport/fake_device.hpp"
#include "tests/transport/stranger.hpp"
#include "transport/ucx/progress.hpp"

namespace troupe::transport::testing {
namespace {

constexpr std::size_t block = 64 * 1024, blocks = 8;

// A node that reads into "device" memory by way of a single slot. Time passes as the test wants.
class reader {
 public:
  reader() {
    const auto memory = device_->allocate(block * blocks);
    book_.add_region({region_id{0}, memory.data(), memory.size(), memory_kind::cuda});
    EXPECT_TRUE(progress_.listen());
  }
  ~reader() {
    progress_.close_all();
    for (const auto end = clock::now() + 60s; !progress_.idle() && clock::now() < end;) round();
    ::close(wake_fd_);
  }

  void connect(incarnation id, stranger& owner) {
    const auto to = decode_address(owner.address(block * blocks)).value();
    ASSERT_TRUE(book_.connecting(id, to));
    progress_.connect(to, now());
    ASSERT_TRUE(owner.run_until([&] {
      round();
      return book_.stats(now()).peers.contains(id);
    }));
  }
  void pull(std::uint64_t op, incarnation from, std::chrono::milliseconds within) {
    pull_request request{op_id{op}, from, region_id{0}, region_id{0}, {}, now() + within, false};
    for (std::size_t i = 0; i < blocks; ++i)
      request.pieces.push_back({i * block, i * block, block});
    ASSERT_TRUE(book_.admit(request, now()));
    progress_.start(std::move(request), now());
  }
  std::size_t pulls() const { return book_.stats(now()).pulls_running; }
  void wait(std::chrono::milliseconds time) { ahead_ += time; }

  // Until nothing has happened for a while.
  void settle() {
    for (auto since = clock::now(); clock::now() < since + 200ms; std::this_thread::sleep_for(1ms))
      if (round()) since = clock::now();
  }
  // As the thread does while no file descriptor wakes it.
  void go_on() {
    for (;;) {
      if (round()) continue;
      const auto next = progress_.next_deadline();
      if (!next || *next > now() + 1s) return;
      std::this_thread::sleep_for(1ms);
    }
  }

 private:
  time_point now() const { return clock::now() + ahead_; }
  bool round() { return progress_.round(now()); }

  const std::shared_ptr<fake_device> device_ =
      std::make_shared<fake_device>(fake_behaviour{.shares = false});
  const ucx_options options_ = [this] {
    ucx_options o;
    o.self = incarnation{0x5E1F};
    o.device = device_;
    o.staging_bytes = block;
    o.force_path = path::staged_tcp;
    return o;
  }();
  const int wake_fd_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  const std::unique_ptr<ucx::worker> worker_ = std::move(ucx::worker::make(options_).value());
  const event_sink sink_ = [](event&&) {};
  ledger book_{16};
  const std::shared_ptr<ucx::inbox> ends_ = std::make_shared<ucx::inbox>(wake_fd_);
  ucx::progress progress_{options_, hello_key{}, *worker_, book_, sink_, ends_};
  std::chrono::milliseconds ahead_{0};
};

TEST(wake, those_that_wait_for_the_slot_of_a_pull_that_fails) {
  constexpr incarnation mute_id{0xBAD1}, well_id{0xBAD2};
  stranger mute(mute_id), well(well_id);
  reader r;
  r.connect(mute_id, mute);
  r.connect(well_id, well);
  r.pull(1, mute_id, 1h);
  r.settle();
  ASSERT_TRUE(mute.run_until([&] { return mute.reads.size() == 1; })) << "it holds the only slot";
  r.pull(2, well_id, 10h);
  r.settle();
  r.wait(2h);
  r.go_on();
  EXPECT_EQ(r.pulls(), 1u);
  EXPECT_TRUE(well.run_until([&] { return well.reads.size() == 1; }));
}

}  // namespace
}  // namespace troupe::transport::testing
