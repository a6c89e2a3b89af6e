#include "actors/block_puller.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "tests/transport/end.hpp"

namespace troupe::actors {
namespace {

using namespace std::chrono_literals;
using transport::testing::fabric_end, transport::testing::fake_device;

struct pulling_node {
  pulling_node(incarnation self, std::shared_ptr<fake_device> device)
      : puller(layout, 1),
        end(self, std::move(device),
            {.arena_bytes = 4 * layout.block_bytes(),
             .staging_bytes = 1 << 20,
             .forced = {},
             .sink = puller.sink()}) {
    puller.attach(*end.link, end.arena);
  }

  const gpu::kv_layout layout{1, 1, 64, 16, gpu::kv_dtype::f16};
  block_puller puller;
  fabric_end end;
};

TEST(block_puller, tells_whether_a_pull_would_wait_for_a_gpus_memory) {
  constexpr incarnation owner_id{0xA11CE};
  pulling_node owner(owner_id, std::make_shared<fake_device>()),
      reader(incarnation{0xB0B}, std::make_shared<fake_device>()),
      host(incarnation{0xCAFE}, nullptr);
  const auto becomes = [&](bool waits) {
    for (const auto limit = std::chrono::steady_clock::now() + 10s;
         reader.puller.would_wait_for(owner_id) != waits; std::this_thread::sleep_for(1ms)) {
      if (std::chrono::steady_clock::now() > limit) return false;
    }
    return true;
  };
  EXPECT_TRUE(reader.puller.would_wait_for(owner_id));
  EXPECT_FALSE(host.puller.would_wait_for(owner_id));  // memory of hosts is there at once
  reader.end.device->hold_opening();
  ASSERT_TRUE(reader.puller.connect(owner_id, owner.end.link->local_address().value()));
  EXPECT_TRUE(reader.puller.would_wait_for(owner_id));
  reader.end.device->release_opening();
  EXPECT_TRUE(becomes(false));
  reader.puller.disconnect(owner_id);
  EXPECT_TRUE(becomes(true));
}

}  // namespace
}  // namespace troupe::actors
