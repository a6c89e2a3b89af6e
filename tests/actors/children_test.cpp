// The supervisor of a server's nodes, with shell scripts in their place.
#include "actors/children.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>

namespace troupe::actors {
namespace {

using namespace std::chrono_literals;

constexpr restart_policy hurried{.first_pause = 1ms, .longest_pause = 4ms};

class children_test : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "children-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // As if no child ever joined.
  static std::uint64_t none(const std::string& /*name*/) { return 0; }
  // As if each child had joined by the time that it has added its line to the file.
  last_joined at_once() const {
    return [this](const std::string& name) { return static_cast<std::uint64_t>(starts(name)); };
  }
  // As if only the first had.
  last_joined only_first() const {
    return [this](const std::string& name) { return std::uint64_t{starts(name) > 0}; };
  }

  // Each start adds a line to a file before `script` goes on.
  child_command shell(const std::string& name, const std::string& script) const {
    return {name, "/bin/sh", {"-c", "echo >> '" + starts_file(name) + "'; " + script}};
  }
  std::string starts_file(const std::string& name) const { return folder_ / name; }
  int starts(const std::string& name) const {
    std::ifstream in(starts_file(name));
    int n = 0;
    for (std::string line; std::getline(in, line);) ++n;
    return n;
  }
  template <class F>
  static bool soon(F condition) {
    for (int i = 0; i < 3000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  std::filesystem::path folder_;
};

TEST_F(children_test, one_that_never_comes_up_is_given_up_with_its_exit_code) {
  children c({shell("decode-0", "exit 7")}, none, hurried);
  ASSERT_TRUE(soon([&] { return c.failure().has_value(); }));
  EXPECT_NE(c.failure()->detail.find("decode-0 does not start (exit code 7)"), std::string::npos);
  EXPECT_EQ(starts("decode-0"), hurried.max_early_deaths + 1);
}

TEST_F(children_test, one_that_has_run_is_started_for_ever) {
  children c({shell("decode-0", "kill -9 $$")}, only_first(), hurried);
  ASSERT_TRUE(soon([&] { return starts("decode-0") > 3 * hurried.max_early_deaths; }));
  EXPECT_FALSE(c.failure());
}

TEST_F(children_test, one_that_loses_its_device_again_and_again_is_started_for_ever) {
  children c({shell("decode-0", "exit 3")}, at_once(), hurried);
  ASSERT_TRUE(soon([&] { return starts("decode-0") > 3 * hurried.max_early_deaths; }));
  EXPECT_FALSE(c.failure());
}

TEST_F(children_test, one_that_has_run_and_then_refuses_is_left_out_while_others_decode) {
  const std::string refuses = "exit 3";
  children c({shell("decode-0", refuses), shell("decode-1", "exec sleep 60")}, only_first(),
             hurried);
  const int all = 2 + hurried.max_early_deaths;
  ASSERT_TRUE(soon([&] { return starts("decode-0") == all; }));
  std::this_thread::sleep_for(300ms);
  EXPECT_EQ(starts("decode-0"), all);
  EXPECT_FALSE(c.failure());
}

TEST_F(children_test, one_that_has_run_and_then_refuses_ends_a_server_without_others) {
  children c({shell("decode-0", "exit 3")}, only_first(), hurried);
  ASSERT_TRUE(soon([&] { return c.failure().has_value(); }));
  EXPECT_EQ(c.failure()->code, ec::device_lost);
  EXPECT_EQ(starts("decode-0"), 2 + hurried.max_early_deaths);
}

TEST_F(children_test, one_that_refuses_is_not_tried_again) {
  // However long it took to find out.
  children c({shell("decode-0", "sleep 1.2; exit 2")}, none, hurried);
  ASSERT_TRUE(soon([&] { return c.failure().has_value(); }));
  EXPECT_EQ(starts("decode-0"), 1);
}

// What a child runs that reports before it goes on.
std::string up_then(const std::string& rest) {
  return "[ \"$PARENT_HEARS_TROUPE\" = 1 ] && printf 1 >&3; " + rest;
}

TEST_F(children_test, one_that_reports_has_been_up) {
  children c({shell("decode-0", up_then("kill -9 $$"))}, nullptr, hurried);
  ASSERT_TRUE(soon([&] { return starts("decode-0") > 3 * hurried.max_early_deaths; }));
  EXPECT_FALSE(c.failure());
}

TEST_F(children_test, one_that_never_reports_is_given_up_however_long_it_lives) {
  children c({shell("serve", "sleep 0.3; exit 2")}, nullptr, hurried);
  ASSERT_TRUE(soon([&] { return c.failure().has_value(); }));
  EXPECT_EQ(starts("serve"), 1);
}

TEST_F(children_test, where_the_cluster_knows_nothing_is_to_be_reported) {
  children c({shell("decode-0", "[ -z \"$PARENT_HEARS_TROUPE\" ] && exit 0; exit 7")}, none,
             hurried);
  ASSERT_TRUE(soon([&] { return c.all_gone() && starts("decode-0") > 0; }));
  EXPECT_FALSE(c.failure());
}

TEST_F(children_test, one_that_dies_soon_each_time_is_started_ever_more_slowly) {
  constexpr restart_policy slow{
      .max_soon_deaths = 2, .soon = 60s, .first_pause = 1h, .longest_pause = 1h};
  std::atomic<int> restarts{0};
  children c({shell("decode-0", "kill -9 $$")}, at_once(), slow,
             {[&](const std::string&) { ++restarts; }, nullptr});
  // At once at first; the third new start has to wait.
  ASSERT_TRUE(soon([&] { return starts("decode-0") == 3 && restarts == 3; }));
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(starts("decode-0"), 3);
  EXPECT_FALSE(c.failure());
}

TEST_F(children_test, who_is_given_up_is_told) {
  std::atomic<int> restarts{0}, given_up{0};
  children c({shell("decode-0", "exit 7")}, none, hurried,
             {[&](const std::string&) { ++restarts; },
              [&](const std::string& name) { given_up += name == "decode-0"; }});
  ASSERT_TRUE(soon([&] { return c.failure().has_value(); }));
  EXPECT_EQ(restarts, hurried.max_early_deaths);
  EXPECT_EQ(given_up, 1);
}

TEST_F(children_test, what_a_child_finds_in_its_environment_is_not_in_its_arguments) {
  auto command = shell("serve", "[ \"$TROUPE_API_KEY\" = secret ] && exit 0; exit 7");
  command.environment = {"TROUPE_API_KEY=secret"};
  children c({command}, none, hurried);
  ASSERT_TRUE(soon([&] { return c.all_gone() && starts("serve") > 0; }));
  EXPECT_FALSE(c.failure());
  EXPECT_EQ(starts("serve"), 1);
}

TEST_F(children_test, one_that_leaves_is_not_started_again_and_no_failure) {
  children c({shell("decode-0", "exit 0"), shell("decode-1", "exec sleep 60")}, at_once(), hurried);
  ASSERT_TRUE(soon([&] { return starts("decode-0") == 1 && starts("decode-1") == 1; }));
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(starts("decode-0"), 1);
  EXPECT_FALSE(c.failure());
  c.stop(2000ms);
  EXPECT_TRUE(soon([&] { return c.all_gone(); }));
}

}  // namespace
}  // namespace troupe::actors
