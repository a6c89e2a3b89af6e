// Strings of the template engine: each byte knows whether the template's author or the caller wrote it, through
// every slice and concatenation. One render, one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model::jinja {

enum class origin : std::uint8_t { source, data };

class text {
 public:
  // Bytes up to `end` (exclusive) that the run before does not cover.
  struct run {
    std::size_t end;
    origin from;
  };

  text() = default;
  text(std::string bytes, origin from);

  const std::string& bytes() const { return bytes_; }
  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  std::span<const run> runs() const { return runs_; }

  void append(std::string_view bytes, origin from);
  void append(const text& other) { append_slice(other, 0, other.size()); }
  // REQUIRES: begin <= end <= other.size().
  void append_slice(const text& other, std::size_t begin, std::size_t end);
  text slice(std::size_t begin, std::size_t end) const;

 private:
  std::string bytes_;
  std::vector<run> runs_;  // ends ascend, neighbours differ in origin, the last end is size()
};

}  // namespace troupe::model::jinja
