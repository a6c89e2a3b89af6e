// JSON from untrusted files: duplicate keys, deep nesting and floods of values are errors, so that
// two readers cannot see two things in one file and memory stays bounded. Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::model {

struct json_limits {
  std::uint32_t depth = 64;
  std::uint64_t values = 4'000'000;  // keys, strings, numbers, arrays and objects
};

// `source` names the file in errors.
result<nlohmann::json> parse_strict_json(std::string_view text, const std::string& source,
                                         json_limits limits = {});

// A whole file of at most `limit` bytes; not_found when it does not exist.
result<std::string> read_text_file(const std::filesystem::path& path, std::uint64_t limit);

}  // namespace troupe::model
