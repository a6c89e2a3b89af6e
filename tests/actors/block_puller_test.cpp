#include "actors/block_puller.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "tests/transport/fake_device.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::actors {
namespace {

using namespace std::chrono_literals;
using transport::testing::fake_device;

struct pulling_node {
  explicit pulling_node(incarnation self, bool on_device)
      : device(on_device ? std::make_shared<fake_device>() : nullptr), puller(layout, 1) {
    transport::ucx_options options;
    options.self = self;
    options.device = device;
    fabric = std::move(transport::make_ucx_fabric(options, puller.sink()).value());
    const std::size_t bytes = 4 * layout.block_bytes();
    if (on_device) {
      const auto memory = device->allocate(bytes);
      arena = fabric->register_memory(memory.data(), bytes, transport::memory_kind::cuda).value();
    } else {
      arena = fabric->allocate(bytes).value();
    }
    puller.attach(*fabric, arena);
  }
  ~pulling_node() { fabric->close(); }

  const gpu::kv_layout layout{1, 1, 64, 16, gpu::kv_dtype::f16};
  const std::shared_ptr<fake_device> device;
  block_puller puller;
  std::unique_ptr<transport::fabric> fabric;
  transport::region arena;
};

TEST(block_puller, tells_whether_a_pull_would_wait_for_a_gpus_memory) {
  constexpr incarnation owner_id{0xA11CE};
  pulling_node owner(owner_id, true), reader(incarnation{0xB0B}, true),
      host(incarnation{0xCAFE}, false);
  EXPECT_TRUE(reader.puller.would_wait_for(owner_id));
  EXPECT_FALSE(host.puller.would_wait_for(owner_id));  // memory of hosts is there at once
  reader.device->hold_opening();
  ASSERT_TRUE(reader.puller.connect(owner_id, owner.fabric->local_address().value()));
  EXPECT_TRUE(reader.puller.would_wait_for(owner_id));
  reader.device->release_opening();
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (reader.puller.would_wait_for(owner_id) && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);
  EXPECT_FALSE(reader.puller.would_wait_for(owner_id));
  reader.puller.disconnect(owner_id);
  while (!reader.puller.would_wait_for(owner_id) && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);
  EXPECT_TRUE(reader.puller.would_wait_for(owner_id));
}

}  // namespace
}  // namespace troupe::actors
