// Where the real fabric's port listens, seen from outside: in the process's own table of sockets.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/transport/harness.hpp"
#include "transport/ucx/devices.hpp"

namespace troupe::transport::testing {
namespace {

std::set<std::string> own_sockets() {
  std::set<std::string> inodes;
  for (const auto& fd : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const std::string to = std::filesystem::read_symlink(fd.path(), gone).string();
    if (to.starts_with("socket:[")) inodes.insert(to.substr(8, to.size() - 9));
  }
  return inodes;
}

// Addresses at which this process listens, as the kernel writes them: "0100007F" is 127.0.0.1.
std::set<std::string> listens_at() {
  const auto own = own_sockets();
  std::set<std::string> at;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    for (std::string line; std::getline(in, line);) {
      std::istringstream fields(line);
      std::string slot, local, remote, state, skip, inode;
      fields >> slot >> local >> remote >> state >> skip >> skip >> skip >> skip >> skip >> inode;
      constexpr const char* listening = "0A";
      if (state == listening && own.contains(inode)) at.insert(local.substr(0, local.find(':')));
    }
  }
  return at;
}

constexpr const char* loopback = "0100007F";
constexpr const char* loopback6 = "00000000000000000000000001000000";

std::unique_ptr<fabric> fabric_at(const std::string& host, incarnation self, recorder& events) {
  ucx_options options;
  options.self = self;
  options.host = host;
  options.force_path = path::tcp;
  return std::move(make_ucx_fabric(options, events.sink()).value());
}

struct devices : ::testing::Test {
  void SetUp() override {
    if (std::getenv("UCX_NET_DEVICES") != nullptr || std::getenv("UCX_TLS") != nullptr)
      GTEST_SKIP() << "the environment says which devices are used";
  }
};

TEST_F(devices, a_fabric_on_loopback_listens_there_alone_and_serves) {
  recorder owner_events, events;
  const auto before = listens_at();
  auto owner = fabric_at("127.0.0.1", incarnation{1}, owner_events);
  auto reader = fabric_at("localhost", incarnation{2}, events);
  auto at = listens_at();
  for (const std::string& known : before) at.erase(known);
  EXPECT_FALSE(at.empty());
  for (const std::string& address : at)
    EXPECT_TRUE(address == loopback || address == loopback6) << address;

  const region from = owner->allocate(1 << 20).value(), to = reader->allocate(1 << 20).value();
  std::memset(from.data, 0x5A, from.bytes);
  ASSERT_TRUE(reader->connect(incarnation{1}, owner->local_address().value()));
  ASSERT_TRUE(reader->pull({op_id{1},
                            incarnation{1},
                            region_id{0},
                            to.id,
                            {{0, 0, to.bytes}},
                            clock::now() + 20s,
                            false}));
  ASSERT_TRUE(events.wait([&] { return events.any_done(); }, 30s));
  ASSERT_TRUE(events.done()[0].outcome);
  EXPECT_EQ(std::memcmp(from.data, to.data, to.bytes), 0);
}

TEST_F(devices, an_address_stands_for_its_interface) {
  ifaddrs* all = nullptr;
  ASSERT_EQ(::getifaddrs(&all), 0);
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(all, ::freeifaddrs);
  for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN];
    const auto& address = reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr;
    ASSERT_NE(::inet_ntop(AF_INET, &address, text, sizeof text), nullptr);
    const std::string label = i->ifa_name, name = label.substr(0, label.find(':'));
    auto found = ucx::net_devices(text);
    ASSERT_TRUE(found) << to_string(found.error());
    EXPECT_EQ(found->substr(0, found->find(',')), name) << text;
  }
  EXPECT_EQ(ucx::net_devices("127.8.9.10").value(), ucx::net_devices("127.0.0.1").value());
  EXPECT_EQ(ucx::net_devices("0.0.0.0").value(), "");
}

TEST_F(devices, an_address_of_no_interface_is_an_error_that_names_it) {
  ucx_options options;
  options.self = incarnation{1};
  options.host = "203.0.113.9";  // of a net for documentation (RFC 5737)
  auto made = make_ucx_fabric(options, [](event&&) {});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ec::invalid_argument);
  EXPECT_NE(made.error().detail.find("203.0.113.9"), std::string::npos);
}

}  // namespace
}  // namespace troupe::transport::testing
