// Tools and calls as a model is told of them: through its template where that knows them, else in words of ours.
//
// The words are those of the Hermes family (https://github.com/NousResearch/Hermes-Function-Calling): a system message with
// the tools, calls as <tool_call>, what they gave as <tool_response> of the user. Plain functions, any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "api/tool_fields.hpp"
#include "model/chat_template.hpp"

namespace troupe::api {

// How a model and this server speak of tools.
struct tool_manner {
  bool served = true;  // false: requests with tools are refused
  engine::structured::call_syntax syntax = engine::structured::call_syntax::hermes;
  bool tools_in_template = false;  // else in a system message of ours
  bool calls_in_template = false;  // else as text
};
// `parser` is auto, none, or a name of call_syntax_names.
tool_manner tool_manner_of(const model::chat_template& t, std::string_view parser);

// messages and tools of a template's context, whose messages' contents are strings.
void put_tools(nlohmann::ordered_json& context, const tool_request& request,
               const tool_manner& manner, const model::tool_support& support);

}  // namespace troupe::api
