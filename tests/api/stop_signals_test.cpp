#include "api/stop_signals.hpp"

#include <gtest/gtest.h>

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/log.hpp"

namespace troupe::api {
namespace {

using std::chrono::milliseconds;

TEST(stop_signals, a_stop_that_hangs_ends_in_time) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto hang = [](int signal) {
    stop_signals signals;
    if (!start_logging({})) std::abort();  // to standard error, which is looked at
    signals.end_within(signal ? std::chrono::hours(1) : milliseconds(50), 7);
    if (signal) ::kill(::getpid(), signal);
    std::this_thread::sleep_for(std::chrono::seconds(30));
  };
  EXPECT_EXIT(hang(0), ::testing::ExitedWithCode(7), "takes too long");
  EXPECT_EXIT(hang(SIGTERM), ::testing::ExitedWithCode(7), "another signal");
}

}  // namespace
}  // namespace troupe::api
