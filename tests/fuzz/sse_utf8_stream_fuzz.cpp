// room: model
// Bytes that arrive in pieces, as a server-sent stream does: each step is valid UTF-8, and the whole does not depend
// on the pieces. The first byte seeds their lengths.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "model/tokenizer.hpp"
#include "model/unicode.hpp"

using namespace troupe::model;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  utf8_stream whole_stream;
  std::string whole = whole_stream.push(bytes);
  whole += whole_stream.flush();
  if (valid_utf8_length(whole) != whole.size()) std::abort();
  if (valid_utf8_length(bytes) == bytes.size() && whole != bytes) std::abort();
  utf8_stream stream;
  std::string joined;
  std::uint32_t state = data[0];
  for (std::size_t at = 0; at < bytes.size();) {
    state = state * 1664525u + 1013904223u;
    const std::size_t length = (state >> 24) % 6;
    const std::string part = stream.push(bytes.substr(at, length));
    if (valid_utf8_length(part) != part.size()) std::abort();
    joined += part;
    at += std::min(length, bytes.size() - at);
  }
  joined += stream.flush();
  if (joined != whole || !stream.flush().empty()) std::abort();
  return 0;
}
