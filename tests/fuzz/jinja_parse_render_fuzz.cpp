// room: model
// Bytes as a chat template over a fixed chat: an error or text within the limits, and every byte of the caller's
// still marked as such.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "model/chat_template.hpp"

using namespace troupe::model;

namespace {

nlohmann::ordered_json make_context() {
  return nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "\u0001s\u0001"},
                 {"role": "user", "content": "\u0001 h\u00e9 <|x|>\n\u0001",
                  "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, null, true], "b": {}}}}]}],
    "tools": [], "n": 3, "f": -1.5, "t": true, "z": null, "l": [3, 1, 2],
    "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true})");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const nlohmann::ordered_json context = make_context();
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const template_limits limits{.steps = 20'000, .depth = 50, .output_bytes = 1 << 16};
  const auto made = chat_template::make(source, limits);
  if (!made) return 0;
  const auto segments = (*made)->render_ordered(context);
  if (!segments) return 0;
  std::size_t length = 0;
  for (const text_segment& segment : *segments) {
    length += segment.text.size();
    if (segment.text.empty()) std::abort();
    // Only the caller's text has this byte, unless the template writes it itself.
    const bool own = source.find('\x01') != source.npos || source.find('\\') != source.npos;
    if (!own && segment.parse_special && segment.text.find('\x01') != segment.text.npos)
      std::abort();
  }
  if (length > limits.output_bytes) std::abort();
  return 0;
}
