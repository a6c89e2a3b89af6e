#include "model/jinja_text.hpp"

#include <algorithm>

#include "base/result.hpp"

namespace troupe::model::jinja {

text::text(std::string bytes, origin from) : bytes_(std::move(bytes)) {
  if (!bytes_.empty()) runs_.push_back({bytes_.size(), from});
}

void text::append(std::string_view bytes, origin from) {
  if (bytes.empty()) return;
  bytes_ += bytes;
  if (!runs_.empty() && runs_.back().from == from) {
    runs_.back().end = bytes_.size();
  } else {
    runs_.push_back({bytes_.size(), from});
  }
}

void text::append_slice(const text& other, std::size_t begin, std::size_t end) {
  TROUPE_ASSERT(this != &other && begin <= end && end <= other.size());
  auto it = std::ranges::upper_bound(other.runs_, begin, {}, &run::end);
  while (begin < end) {
    const std::size_t stop = std::min(it->end, end);
    append(std::string_view(other.bytes_).substr(begin, stop - begin), it->from);
    begin = stop;
    ++it;
  }
}

text text::slice(std::size_t begin, std::size_t end) const {
  text out;
  out.append_slice(*this, begin, end);
  return out;
}

}  // namespace troupe::model::jinja
