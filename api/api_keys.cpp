#include "api/api_keys.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <fstream>

namespace troupe::api {
namespace {

bool starts_with_word(std::string_view text, std::string_view word) {
  if (text.size() < word.size()) return false;
  for (std::size_t i = 0; i < word.size(); ++i)
    if ((text[i] | 0x20) != (word[i] | 0x20)) return false;
  return true;
}

// The password of "user:password" in base64; empty if it is not that.
std::string basic_password(std::string_view encoded) {
  if (encoded.empty() || encoded.size() > 4096 || encoded.size() % 4 != 0) return {};
  std::string plain(encoded.size() / 4 * 3, '\0');
  const int n = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(plain.data()),
                                reinterpret_cast<const unsigned char*>(encoded.data()),
                                static_cast<int>(encoded.size()));
  if (n < 0) return {};
  std::size_t padding = 0;
  while (padding < 2 && encoded[encoded.size() - 1 - padding] == '=') ++padding;
  plain.resize(static_cast<std::size_t>(n) - padding);
  const auto colon = plain.find(':');
  return colon == std::string::npos ? std::string() : plain.substr(colon + 1);
}

std::string_view trimmed(std::string_view s) {
  const auto first = s.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return s.substr(first, s.find_last_not_of(" \t\r") - first + 1);
}

}  // namespace

result<api_keys> api_keys::make(const std::vector<std::string>& keys) {
  api_keys out;
  for (const auto& key : keys) {
    if (key.empty() || key.find_first_of(" \t\r\n") != std::string::npos)
      return fail(ec::invalid_argument, "--api-key: a key must not be empty or hold spaces");
    digest d;
    SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), d.data());
    out.digests_.push_back(d);
  }
  return out;
}

result<api_keys> api_keys::load(std::vector<std::string> keys, const std::filesystem::path& file) {
  if (!file.empty()) {
    TROUPE_TRY(auto more, read_file(file));
    keys.insert(keys.end(), more.begin(), more.end());
  }
  return make(keys);
}

result<std::vector<std::string>> api_keys::read_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) return fail(ec::io_error, "cannot read the file of API keys '" + path.string() + "'");
  std::vector<std::string> keys;
  for (std::string line; std::getline(file, line);) {
    const auto key = trimmed(line);
    if (!key.empty() && key.front() != '#') keys.emplace_back(key);
  }
  if (keys.empty())
    return fail(ec::invalid_argument, "the file of API keys '" + path.string() + "' holds no key");
  return keys;
}

std::string api_keys::holder(std::string_view authorization) const {
  std::string key;
  if (starts_with_word(authorization, "bearer "))
    key = trimmed(authorization.substr(7));
  else if (starts_with_word(authorization, "basic "))
    key = basic_password(trimmed(authorization.substr(6)));
  digest d;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), d.data());
  unsigned found = 0;
  for (const auto& known : digests_)
    found |= CRYPTO_memcmp(d.data(), known.data(), d.size()) == 0 ? 1u : 0u;
  if (found == 0) return {};
  std::string name;
  for (std::size_t i = 0; i < 8; ++i)
    for (int half : {d[i] >> 4, d[i] & 15}) name += "0123456789abcdef"[half];
  return name;
}

}  // namespace troupe::api
