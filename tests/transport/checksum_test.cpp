#include "transport/checksum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "base/hash.hpp"

namespace troupe::transport {
namespace {

std::vector<std::byte> random_bytes(std::size_t n, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

// libxxhash is the independent implementation.
class checksum : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!use_checksum_kernel(GetParam())) GTEST_SKIP() << "this CPU has no " << GetParam();
  }
};

TEST_P(checksum, equals_libxxhash_at_every_length) {
  auto bytes = random_bytes(9000, 1);
  for (std::size_t n = 0; n <= 4200; ++n)
    ASSERT_EQ(checksum64({bytes.data(), n}), hash64({bytes.data(), n})) << n;
  for (std::size_t start = 0; start < 70; ++start)
    ASSERT_EQ(checksum64({bytes.data() + start, 8192}), hash64({bytes.data() + start, 8192}));
  auto block = random_bytes(368'640, 2);
  EXPECT_EQ(checksum64(block), hash64(block));
}

TEST_P(checksum, copies_and_sums_in_slices_whatever_the_alignment) {
  auto from = random_bytes(40'000, 3);
  std::vector<std::byte> to(from.size() + 256);
  std::mt19937 random(4);
  for (int i = 0; i < 600; ++i) {
    std::size_t n = 1 + random() % 30'000, skip_from = random() % 130, skip_to = random() % 130;
    bool want_sum = i % 3 != 0;
    std::fill(to.begin(), to.end(), std::byte{0x5A});
    summing_copy copy(to.data() + skip_to, n, want_sum);
    while (!copy.done())
      copy.append(from.data() + skip_from + copy.copied(),
                  std::min(copy.left(), (1 + random() % 9) * summing_copy::granule));
    ASSERT_TRUE(
        std::equal(from.data() + skip_from, from.data() + skip_from + n, to.data() + skip_to));
    if (want_sum) {
      ASSERT_EQ(copy.sum(), hash64({from.data() + skip_from, n})) << n;
    }
    for (std::size_t k = 0; k < skip_to; ++k) ASSERT_EQ(to[k], std::byte{0x5A});
    for (std::size_t k = skip_to + n; k < to.size(); ++k) ASSERT_EQ(to[k], std::byte{0x5A});
  }
}

INSTANTIATE_TEST_SUITE_P(kernels, checksum, ::testing::Values("portable", "avx2", "avx512"),
                         [](const auto& kernel) { return std::string(kernel.param); });

}  // namespace
}  // namespace troupe::transport
