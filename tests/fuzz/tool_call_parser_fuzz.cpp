// room: api
// Text of an answer with calls of tools: what is read does not depend on how the text was cut.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <string>

#include "api/tool_call_parser.hpp"

using namespace troupe::api;

namespace {

std::string read(const call_reading& how, std::string_view text, std::size_t piece) {
  tool_call_parser parser(how);
  std::string out;
  const auto take = [&](const std::vector<tool_event>& events) {
    for (const tool_event& e : events) {
      if (e.is == tool_event::kind::call) out += '@';
      out += e.what;
    }
  };
  for (; !text.empty(); text.remove_prefix(std::min(piece, text.size())))
    take(parser.push(text.substr(0, piece)));
  take(parser.flush());
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  namespace structured = troupe::engine::structured;
  constexpr auto syntaxes = std::size(structured::call_syntax_names);
  const call_reading how{
      static_cast<structured::call_syntax>((data[0] & 7) % syntaxes),
      {{"f", R"({"properties":{"a":{"type":"string"},"b":{"type":["string","null"]},"c":{}}})",
        false},
       {"g", "", false}},
      (data[0] & 8) != 0,
      false,
      (data[0] & 16) != 0};
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (read(how, text, 1 + data[1] % 16) != read(how, text, text.size())) std::abort();
  return 0;
}
