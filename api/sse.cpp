#include "api/sse.hpp"

#include "base/result.hpp"

namespace troupe::api {

std::string sse_data(std::string_view payload) {
  TROUPE_ASSERT(payload.find_first_of("\r\n") == std::string_view::npos);
  std::string frame;
  frame.reserve(payload.size() + 8);
  frame += "data: ";
  frame += payload;
  frame += "\n\n";
  return frame;
}

std::optional<std::string> sse_parser::line() {
  const auto end = buffer_.find_first_of("\r\n", at_);
  if (end == std::string::npos) return {};
  // A CR at the very end may be half of a CRLF.
  if (buffer_[end] == '\r' && end + 1 == buffer_.size()) return {};
  std::string text = buffer_.substr(at_, end - at_);
  at_ = end + (buffer_[end] == '\r' && buffer_[end + 1] == '\n' ? 2 : 1);
  if (at_ > 65536) {
    buffer_.erase(0, at_);
    at_ = 0;
  }
  return text;
}

std::optional<std::string> sse_parser::next() {
  while (auto text = line()) {
    if (text->empty()) {
      if (!has_data_) continue;
      has_data_ = false;
      return std::exchange(data_, {});
    }
    if (text->rfind("data:", 0) != 0) continue;
    std::string_view value = std::string_view(*text).substr(5);
    if (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  }
  return {};
}

}  // namespace troupe::api
