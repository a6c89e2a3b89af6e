#include "base/secrets.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <algorithm>

#include "base/result.hpp"

namespace troupe {

void fill_random(std::span<std::byte> out) {
  // Up to 256 bytes come whole or not at all, and without an error on any kernel since 3.17.
  constexpr std::size_t at_once = 256;
  while (!out.empty()) {
    const std::size_t bytes = std::min(out.size(), at_once);
    TROUPE_ASSERT(::getrandom(out.data(), bytes, 0) == static_cast<ssize_t>(bytes));
    out = out.subspan(bytes);
  }
}

std::array<std::byte, 32> keyed_hash(std::string_view key, std::string_view text) {
  std::array<std::byte, 32> out;
  unsigned bytes = 0;
  // A null key means another thing to HMAC than one of no bytes.
  const char* const data = key.empty() ? "" : key.data();
  const auto* made = ::HMAC(::EVP_sha256(), data, static_cast<int>(key.size()),
                            reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                            reinterpret_cast<unsigned char*>(out.data()), &bytes);
  TROUPE_ASSERT(made != nullptr);
  TROUPE_ASSERT(bytes == out.size());
  return out;
}

bool same_secret(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && ::CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::uint64_t random_ids::next() {
  for (;;) {
    if (left_ == 0) {
      fill_random(std::as_writable_bytes(std::span(ahead_)));
      left_ = ahead_.size();
    }
    if (const std::uint64_t id = ahead_[--left_]; id != 0) return id;
  }
}

}  // namespace troupe
