// A reader's mapping takes up what its owner has made, and makes nothing itself.
#include "transport/shared_memory.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstring>
#include <string>

namespace troupe::transport {
namespace {

constexpr std::size_t megabyte = 1 << 20;

long faults() {
  rusage used{};
  ::getrusage(RUSAGE_THREAD, &used);
  return used.ru_minflt;
}

std::size_t made_bytes(const shared_memory& owner) {
  struct stat found {};
  EXPECT_EQ(::stat(("/proc/self/fd/" + std::to_string(owner.name().descriptor)).c_str(), &found),
            0);
  return static_cast<std::size_t>(found.st_blocks) * 512;
}

// Not looked at by the sanitizer, whose own memory would be read for the first time as well.
__attribute__((no_sanitize("address"))) unsigned sum_of_pages(const unsigned char* data,
                                                              std::size_t bytes) {
  unsigned sum = 0;
  for (std::size_t i = 0; i < bytes; i += 4096) sum += data[i];
  return sum;
}

long read_all(const shared_memory& m, std::size_t bytes) {
  const long before = faults();
  const unsigned sum = sum_of_pages(reinterpret_cast<const unsigned char*>(m.data()), bytes);
  const long some = faults() - before;
  EXPECT_EQ(sum, bytes / 4096);
  return some;
}

TEST(shared_memory_test, maps_what_the_owner_has_made_and_makes_nothing) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer's own pages are counted as well";
#endif
  auto owner = shared_memory::make(16 * megabyte);
  ASSERT_TRUE(owner) << to_string(owner.error());
  auto reader = shared_memory::open(owner->name(), owner->bytes());
  ASSERT_TRUE(reader) << to_string(reader.error());
  EXPECT_FALSE(reader->map_ahead());
  std::memset(owner->data(), 1, 3 * megabyte);
  int steps = 0;
  while (reader->map_ahead()) ++steps;
  if (steps == 0) GTEST_SKIP() << "this kernel has no MADV_POPULATE_READ";
  EXPECT_EQ(steps, 3);
  EXPECT_LT(read_all(*reader, 3 * megabyte), 20);
  EXPECT_EQ(made_bytes(*owner), 3 * megabyte);
  std::memset(owner->data() + 3 * megabyte, 1, megabyte);  // what comes later is taken up later
  EXPECT_TRUE(reader->map_ahead());
  EXPECT_FALSE(reader->map_ahead());
  EXPECT_LT(read_all(*reader, 4 * megabyte), 20);
  EXPECT_EQ(made_bytes(*owner), 4 * megabyte);
}

TEST(shared_memory_test, a_moved_mapping_goes_on_where_it_was) {
  auto owner = shared_memory::make(8 * megabyte);
  ASSERT_TRUE(owner) << to_string(owner.error());
  std::memset(owner->data(), 1, 2 * megabyte);
  auto reader = shared_memory::open(owner->name(), owner->bytes());
  ASSERT_TRUE(reader) << to_string(reader.error());
  const bool can = reader->map_ahead();
  shared_memory moved = std::move(*reader);
  EXPECT_EQ(moved.map_ahead(), can);
  EXPECT_FALSE(moved.map_ahead());
  read_all(moved, 2 * megabyte);
}

}  // namespace
}  // namespace troupe::transport
