// Fences and copies of KV blocks on the GPU: the host verifies what the GPU sealed and the other way round.
#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "gpu/cuda/device_memory.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "transport/checksum.hpp"

namespace troupe::gpu::cuda {
namespace {

using transport::block_tag;
using transport::device_batch;
using transport::device_done;
using transport::fence_bytes;

class device_memory_test : public gpu_test {
 protected:
  void SetUp() override {
    gpu_test::SetUp();
    if (IsSkipped()) return;
    auto options = parse_copy_way("fused:16x256").value();
    options.lanes = 4;
    options.polled = true;
    auto made = gpu_memory::make(device, options);
    ASSERT_TRUE(made.has_value()) << to_string(made.error());
    memory = std::move(*made);
  }
  std::vector<std::byte> random_bytes(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (auto& b : bytes) b = static_cast<std::byte>(random());
    return bytes;
  }
  std::span<std::byte> arena(std::size_t bytes) {
    auto made = memory->allocate(bytes, "a test");
    EXPECT_TRUE(made.has_value());
    return *made;
  }
  static std::vector<std::byte> fetch(std::span<const std::byte> from) {
    std::vector<std::byte> bytes(from.size());
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    EXPECT_EQ(cudaSuccess,
              cudaMemcpy(bytes.data(), from.data(), from.size(), cudaMemcpyDeviceToHost));
    return bytes;
  }
  static void put(std::span<std::byte> to, const std::vector<std::byte>& from) {
    EXPECT_EQ(cudaSuccess, cudaMemcpy(to.data(), from.data(), from.size(), cudaMemcpyHostToDevice));
    // Pageable memory: the call returns before the last bytes are there, and streams of ours do not wait for it.
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
  }
  device_done run(device_batch batch) { return run(*memory, std::move(batch)); }
  static device_done run(gpu_memory& on, device_batch batch) {
    std::mutex mutex;
    std::condition_variable ended;
    std::optional<device_done> got;
    batch.done = [&](device_done&& d) {
      std::lock_guard lock(mutex);
      got = std::move(d);
      ended.notify_one();
    };
    auto begun = on.copy(std::move(batch));
    EXPECT_TRUE(begun.has_value()) << to_string(begun.error());
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    std::unique_lock lock(mutex);
    while (!got && std::chrono::steady_clock::now() < limit) {
      lock.unlock();
      on.poll();
      lock.lock();
      ended.wait_for(lock, std::chrono::milliseconds(1), [&] { return got.has_value(); });
    }
    EXPECT_TRUE(got.has_value());
    return got ? std::move(*got) : device_done{};
  }

  std::shared_ptr<gpu_memory> memory;
};

TEST_F(device_memory_test, sums_are_the_hosts_for_every_size) {
  for (const std::size_t payload :
       {256u, 320u, 960u, 1024u, 1088u, 2048u, 65536u, 65600u, 368640u, 2u << 20, 5u << 20}) {
    const std::size_t stride = payload + fence_bytes, count = 5;
    const auto blocks = arena(count * stride), copies = arena(count * stride);
    const auto bytes = random_bytes(count * stride);
    put(blocks, bytes);
    device_batch batch;
    batch.checksum = true;
    for (std::size_t i = 0; i < count; ++i)
      batch.copies.push_back({copies.data() + i * stride, blocks.data() + i * stride, stride});
    const device_done done = run(std::move(batch));
    ASSERT_TRUE(done.outcome.has_value()) << to_string(done.outcome.error());
    ASSERT_EQ(done.checksums.size(), count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto block = std::span(bytes).subspan(i * stride, stride);
      EXPECT_EQ(done.checksums[i], transport::checksum64(block.first(payload))) << payload;
      EXPECT_EQ(0, std::memcmp(done.fences[i].data(), block.data() + payload, fence_bytes));
    }
    EXPECT_EQ(fetch(copies), bytes);
  }
}

// Whichever way, whatever the order, number and size of the blocks, and however many threads copy them.
TEST_F(device_memory_test, every_way_copies_and_sums_the_same) {
  for (const char* way : {"plain", "coalesced", "batched", "kernel:8x128", "fused:1x32",
                          "fused:3x64", "fused:16x256", "fused:32x128"}) {
    for (const bool polled : {true, false}) {
      auto options = parse_copy_way(way);
      ASSERT_TRUE(options.has_value()) << to_string(options.error());
      options->polled = polled;
      const auto under_test = gpu_memory::make(device, *options).value();
      for (const std::size_t payload : {256u, 8128u, 8192u, 65536u, 368640u, 2u << 20}) {
        const std::size_t stride = payload + fence_bytes, count = payload > 100000 ? 11 : 48;
        const auto blocks = arena(count * stride), copies = arena(count * stride);
        const auto bytes = random_bytes(count * stride);
        put(blocks, bytes);
        std::vector<std::size_t> order(count);
        for (std::size_t i = 0; i < count; ++i) order[i] = i;
        std::shuffle(order.begin() + count / 2, order.end(), random);
        for (const bool checksum : {true, false}) {
          put(copies, std::vector<std::byte>(count * stride));
          device_batch batch;
          batch.checksum = checksum;
          for (const std::size_t i : order)
            batch.copies.push_back(
                {copies.data() + i * stride, blocks.data() + i * stride, stride});
          const device_done done = run(*under_test, std::move(batch));
          ASSERT_TRUE(done.outcome.has_value()) << to_string(done.outcome.error());
          ASSERT_EQ(done.checksums.size(), checksum ? count : 0);
          for (std::size_t i = 0; i < done.checksums.size(); ++i) {
            const auto block = std::span(bytes).subspan(order[i] * stride, stride);
            ASSERT_EQ(done.checksums[i], transport::checksum64(block.first(payload)))
                << way << ", block " << i << " of " << payload;
            ASSERT_EQ(0, std::memcmp(done.fences[i].data(), block.data() + payload, fence_bytes));
          }
          ASSERT_EQ(fetch(copies), bytes) << way << ", blocks of " << payload;
        }
      }
    }
  }
}

TEST_F(device_memory_test, the_host_verifies_what_the_gpu_sealed) {
  for (const std::size_t payload : {36864u, 368640u, 2u << 20}) {
    const std::size_t stride = payload + fence_bytes, count = 60;  // more than one launch
    const auto blocks = arena(count * stride);
    put(blocks, random_bytes(count * stride));
    std::vector<transport::seal_order> orders;
    for (std::size_t i = 0; i < count; ++i)
      orders.push_back({blocks.subspan(i * stride, stride),
                        {incarnation{random()}, i + 1, random(), static_cast<std::uint32_t>(i)}});
    ASSERT_TRUE(memory->seal(orders).has_value());
    auto bytes = fetch(blocks);
    for (std::size_t i = 0; i < count; ++i) {
      const auto block = std::span(bytes).subspan(i * stride, stride);
      const auto verified = transport::verify(block, orders[i].tag);
      EXPECT_TRUE(verified.has_value()) << to_string(verified.error());
      block_tag other = orders[i].tag;
      ++other.generation;
      EXPECT_FALSE(transport::verify(block, other).has_value());
      block[random() % payload] ^= std::byte{1};
      EXPECT_FALSE(transport::verify(block, orders[i].tag).has_value());
    }
    // Invalidated, none verifies, and the payloads are as they were.
    std::vector<std::span<std::byte>> all;
    for (auto& o : orders) all.push_back(o.block);
    ASSERT_TRUE(memory->invalidate(all).has_value());
    ASSERT_TRUE(memory->wait_for_fences(stream).has_value());
    bytes = fetch(blocks);
    for (std::size_t i = 0; i < count; ++i) {
      const auto refused =
          transport::verify(std::span(bytes).subspan(i * stride, stride), orders[i].tag);
      ASSERT_FALSE(refused.has_value());
      EXPECT_NE(to_string(refused.error()).find("being written"), std::string::npos);
    }
  }
}

TEST_F(device_memory_test, the_gpu_verifies_what_the_host_sealed) {
  const std::size_t payload = 368640, stride = payload + fence_bytes;
  const block_tag tag{incarnation{5}, 9, 1234, 16};
  auto bytes = random_bytes(stride);
  transport::seal(bytes, tag);
  const auto pinned = memory->allocate_pinned(stride).value();
  std::copy(bytes.begin(), bytes.end(), pinned.begin());
  const auto block = arena(stride);
  device_batch batch;
  batch.checksum = true;
  batch.copies.push_back({block.data(), pinned.data(), stride});
  const device_done done = run(std::move(batch));
  ASSERT_TRUE(done.outcome.has_value());
  EXPECT_TRUE(transport::verify_fence(done.fences[0], tag, done.checksums[0]).has_value());
  // And back to the host.
  std::memset(pinned.data(), 0, stride);
  device_batch back;
  back.copies.push_back({pinned.data(), block.data(), stride});
  ASSERT_TRUE(run(std::move(back)).outcome.has_value());
  EXPECT_TRUE(transport::verify(pinned, tag).has_value());
  memory->free_pinned(pinned);
}

// A block that is pulled into is invalidated first: the fence that comes with the pull must stay.
TEST_F(device_memory_test, a_batch_comes_after_the_invalidations_before_it) {
  const std::size_t payload = 65536, stride = payload + fence_bytes, count = 40;
  const auto from = arena(count * stride), to = arena(count * stride);
  std::vector<transport::seal_order> orders;
  std::vector<std::span<std::byte>> all;
  device_batch batch;
  batch.checksum = true;
  for (std::size_t i = 0; i < count; ++i) {
    orders.push_back({from.subspan(i * stride, stride), {incarnation{5}, i + 1, 7, 16}});
    all.push_back(to.subspan(i * stride, stride));
    batch.copies.push_back({to.data() + i * stride, from.data() + i * stride, stride});
  }
  ASSERT_TRUE(memory->seal(orders).has_value());
  ASSERT_TRUE(memory->invalidate(all).has_value());
  const device_done done = run(std::move(batch));
  ASSERT_TRUE(done.outcome.has_value());
  const auto bytes = fetch(to);
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_TRUE(transport::verify_fence(done.fences[i], orders[i].tag, done.checksums[i]));
    EXPECT_TRUE(transport::verify(std::span(bytes).subspan(i * stride, stride), orders[i].tag));
  }
}

// Each copy sees what the one before it brought, and a batch what all of them did; fences stay as they are.
TEST_F(device_memory_test, blocks_are_copied_within_the_memory_in_their_order) {
  const std::size_t payload = 368640, stride = payload + fence_bytes;
  const auto blocks = arena(4 * stride), out = arena(2 * stride);
  const auto bytes = random_bytes(4 * stride);
  put(blocks, bytes);
  const auto at = [&](std::size_t i) { return blocks.data() + i * stride; };
  const std::span<std::byte> third[] = {{at(2), stride}};
  ASSERT_TRUE(memory->invalidate(third).has_value());
  const transport::device_copy copies[] = {
      {at(1), at(0), payload}, {at(2), at(1), payload}, {at(0), at(3), payload}};
  ASSERT_TRUE(memory->copy_here(copies).has_value());
  device_batch batch;
  batch.copies = {{out.data(), at(2), stride}, {out.data() + stride, at(0), stride}};
  ASSERT_TRUE(run(std::move(batch)).outcome.has_value());
  const auto got = fetch(out);
  const auto part = [&](std::size_t i) { return bytes.data() + i * stride; };
  EXPECT_EQ(0, std::memcmp(got.data(), part(0), payload));
  EXPECT_NE(0, std::memcmp(got.data() + payload, part(2) + payload, fence_bytes));
  EXPECT_EQ(0, std::memcmp(got.data() + stride, part(3), payload));
  EXPECT_EQ(0, std::memcmp(got.data() + stride + payload, part(0) + payload, fence_bytes));
}

TEST_F(device_memory_test, refuses_batches_beyond_its_lanes_and_tells_each_end) {
  const std::size_t bytes = 64u << 20;
  const auto from = arena(bytes), to = arena(bytes);
  std::mutex mutex;
  int ended = 0, accepted = 0;
  bool refused = false;
  for (int i = 0; i < 200 && !refused; ++i) {
    device_batch batch;
    batch.copies.push_back({to.data(), from.data(), bytes});
    batch.done = [&](device_done&& d) {
      std::lock_guard lock(mutex);
      ended += d.outcome ? 1 : 1000;
    };
    const auto begun = memory->copy(std::move(batch));
    refused = !begun.has_value();
    EXPECT_TRUE(!refused || begun.error().code == ec::queue_full);
    accepted += refused ? 0 : 1;
  }
  EXPECT_TRUE(refused);
  memory.reset();  // waits
  std::lock_guard lock(mutex);
  EXPECT_EQ(ended, accepted);
}

TEST_F(device_memory_test, this_process_opens_its_own_memory_and_keeps_it) {
  auto other = gpu_memory::make(device).value();
  const auto memory_of_other = other->allocate(1 << 20, "a test").value();
  const auto name = other->share(memory_of_other.data(), memory_of_other.size());
  ASSERT_TRUE(name.has_value()) << to_string(name.error());
  const auto opened = memory->open(*name, memory_of_other.size());
  ASSERT_TRUE(opened.has_value()) << to_string(opened.error());
  EXPECT_EQ(*opened, memory_of_other.data());
  other.reset();
  const auto to = arena(1 << 20);
  device_batch batch;
  batch.copies.push_back({to.data(), *opened, to.size()});
  EXPECT_TRUE(run(std::move(batch)).outcome.has_value());
  memory->close(*opened);
  EXPECT_FALSE(memory->open(*name, 1 << 20).has_value());
}

}  // namespace
}  // namespace troupe::gpu::cuda
