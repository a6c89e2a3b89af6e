#include "base/secrets.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace troupe {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::string hex_of(std::span<const std::byte> bytes) {
  std::string text;
  for (std::byte b : bytes)
    for (unsigned half : {std::to_integer<unsigned>(b) >> 4, std::to_integer<unsigned>(b) & 15})
      text += "0123456789abcdef"[half];
  return text;
}

// RFC 4231, case 2; and the well-known HMAC of nothing under nothing.
TEST(secrets, keyed_hash_is_hmac_sha256) {
  EXPECT_EQ(hex_of(keyed_hash("Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(hex_of(keyed_hash({}, {})),
            "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

TEST(secrets, a_difference_is_found_wherever_it_is) {
  const std::string one = "sixteen bytes ..";
  EXPECT_TRUE(same_secret(bytes_of(one), bytes_of(std::string(one))));
  for (std::size_t i = 0; i < one.size(); ++i) {
    std::string other = one;
    other[i] ^= 1;
    EXPECT_FALSE(same_secret(bytes_of(one), bytes_of(other))) << i;
  }
  EXPECT_FALSE(same_secret(bytes_of(one), bytes_of(one).first(15)));
  EXPECT_TRUE(same_secret({}, {}));
}

TEST(secrets, numbers_do_not_come_again_and_use_every_bit) {
  random_ids ids;
  std::set<std::uint64_t> seen;
  std::uint64_t ones = 0, zeros = 0;
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t id = ids.next();
    EXPECT_NE(id, 0u);
    EXPECT_TRUE(seen.insert(id).second);
    ones |= id;
    zeros |= ~id;
  }
  EXPECT_EQ(ones & zeros, ~std::uint64_t{0});
}

TEST(secrets, random_bytes_fill_the_whole_span) {
  std::array<std::byte, 1000> bytes{};
  fill_random(bytes);
  // 16 zeros in a row would be a part that was not filled.
  int zeros = 0, most = 0;
  for (std::byte b : bytes) {
    zeros = b == std::byte{0} ? zeros + 1 : 0;
    most = std::max(most, zeros);
  }
  EXPECT_LT(most, 16);
}

}  // namespace
}  // namespace troupe
