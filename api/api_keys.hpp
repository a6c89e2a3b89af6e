// API keys: from the command line, the environment or a file of one key a line. Immutable, any thread.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::api {

class api_keys {
 public:
  // An empty list: no key is asked for. ec::invalid_argument for an empty key or one with spaces.
  static result<api_keys> make(const std::vector<std::string>& keys);
  // With those of a file, unless its name is empty.
  static result<api_keys> load(std::vector<std::string> keys, const std::filesystem::path& file);
  // Empty lines and lines that begin with # are skipped.
  static result<std::vector<std::string>> read_file(const std::filesystem::path& path);

  bool required() const { return !digests_.empty(); }
  // An Authorization header: "Bearer <key>", or "Basic" with the key as password (browsers offer no other way).
  // Takes the same time whatever the key: digests are compared, all of them, without an early end.
  bool accepts(std::string_view authorization) const { return !holder(authorization).empty(); }
  // Whose key it is: 16 hexadecimal digits, the same for the same key and safe to log; empty: no known key.
  std::string holder(std::string_view authorization) const;

 private:
  using digest = std::array<unsigned char, 32>;
  std::vector<digest> digests_;  // SHA-256 of each key
};

}  // namespace troupe::api
