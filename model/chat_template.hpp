// Chat templates: the Jinja that model files carry, with limits on steps, depth and output.
//
// Output remembers which characters came from the template and which from the caller's data, so that the tokenizer
// parses special tokens in the former only. Immutable after make, so any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

struct template_limits {
  std::uint64_t steps = 1'000'000;  // evaluated nodes
  std::uint32_t depth = 100;        // nested expressions, blocks and macro calls
  std::uint64_t output_bytes = 16u << 20;
};

// What a template does with tools, found out by trial.
struct tool_support {
  bool tools = false;           // shows the definitions
  bool calls = false;           // shows calls of earlier answers and what they gave
  bool text_arguments = false;  // wants a call's arguments as text, else as an object
  bool null_content = false;    // takes null for the content of a message that only calls
};

class chat_template {
 public:
  // `source` is Jinja. Parse errors name line and column.
  static result<std::shared_ptr<const chat_template>> make(std::string_view source,
                                                           template_limits limits = {});
  virtual ~chat_template() = default;

  // `context` is an object: messages, tools, add_generation_prompt, bos_token, eos_token and the caller's
  // chat_template_kwargs. `raise_exception` in the template is ec::invalid_argument with its text.
  virtual result<std::vector<text_segment>> render(const nlohmann::json& context) const = 0;
  // The same, keeping the order of keys: tools that the template prints as JSON stay as the caller wrote them.
  virtual result<std::vector<text_segment>> render_ordered(
      const nlohmann::ordered_json& context) const = 0;
  // The template reads message['content'] as a list of parts rather than as a string.
  virtual bool wants_content_parts() const = 0;
  virtual tool_support tools() const = 0;
  // Its source has this text: how calls are written cannot be seen from the outside.
  virtual bool mentions(std::string_view text) const = 0;
};

}  // namespace troupe::model
