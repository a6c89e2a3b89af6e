#include "model/tokenizer.hpp"
#include "model/unicode.hpp"

namespace troupe::model {

std::string utf8_stream::push(std::string_view bytes) {
  std::string joined;
  if (!held_.empty()) {
    joined = std::move(held_);
    held_.clear();
    joined += bytes;
    bytes = joined;
  }
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const std::size_t valid = valid_utf8_length(bytes);
    out += bytes.substr(0, valid);
    bytes.remove_prefix(valid);
    if (bytes.empty()) break;
    const utf8_prefix next = utf8_prefix_of(bytes);
    if (next.incomplete > 0) {
      held_ = bytes;
      break;
    }
    out += replacement_character;
    bytes.remove_prefix(next.bad);
  }
  return out;
}

std::string utf8_stream::flush() {
  // What is held is one maximal subpart: one replacement character.
  std::string out(held_.empty() ? std::string_view() : replacement_character);
  held_.clear();
  return out;
}

}  // namespace troupe::model
