#include "api/tool_fields.hpp"

#include <algorithm>
#include <set>

namespace troupe::api {
namespace {

using nlohmann::json;

constexpr std::size_t max_calls = 128;  // of one message
const std::string or_too_deep =
    ", or nests deeper than " + std::to_string(json_limits{}.depth) + " levels.";

const json* member(const json& object, const char* name) {
  const auto at = object.find(name);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

// {"type": "function", "function": {...}}, of a tool, a choice and a call.
const json* function_of(const json& value) {
  if (!value.is_object()) return nullptr;
  const json* type = member(value, "type");
  const json* function = member(value, "function");
  const bool is_function = type == nullptr || *type == "function";
  return is_function && function != nullptr && function->is_object() ? function : nullptr;
}

const std::string* text_of(const json* value) {
  return value != nullptr && value->is_string() ? &value->get_ref<const std::string&>() : nullptr;
}

void read_tool(field_reader& in, const std::string& where, const json& value, tool_request& to) {
  const auto wrong = [&](const std::string& what) { in.fail(bad_field("tools", where + what)); };
  if (value.is_object() && value.contains("type") && value["type"] != "function")
    return in.fail(unsupported_field("tools", where + ".type must be function."));
  const json* function = function_of(value);
  if (function == nullptr)
    return wrong(" must be {\"type\": \"function\", \"function\": {\"name\": ...}}.");
  tool_definition tool;
  const std::string* name = text_of(member(*function, "name"));
  if (name == nullptr || !engine::structured::is_callable_name(*name))
    return wrong(".function.name must be 1 to 64 letters, digits, '_' or '-'.");
  tool.call.name = *name;
  const bool again = std::any_of(to.tools.begin(), to.tools.end(), [&](const auto& other) {
    return other.call.name == tool.call.name;
  });
  if (again) return wrong(".function.name is that of another tool.");
  if (const json* description = member(*function, "description")) {
    if (!description->is_string()) return wrong(".function.description must be a string.");
    tool.description = description->get<std::string>();
  }
  if (const json* strict = member(*function, "strict")) {
    if (!strict->is_boolean()) return wrong(".function.strict must be true or false.");
    tool.call.strict = strict->get<bool>();
  }
  // As text where keep_schema_order has been at work.
  if (const json* parameters = member(*function, "parameters")) {
    if (!parameters->is_object() && !parameters->is_string())
      return wrong(".function.parameters must be a JSON schema.");
    if (parameters->is_string() && !is_bounded_json(parameters->get_ref<const std::string&>()))
      return wrong(".function.parameters is not JSON" + or_too_deep);
    tool.call.parameters = parameters->is_string() ? parameters->get<std::string>()
                                                   : dump(nlohmann::ordered_json(*parameters));
  }
  to.tools.push_back(std::move(tool));
}

api_error bad_choice(std::string message) {
  return bad_field("tool_choice", "tool_choice " + std::move(message));
}

void read_callable(field_reader& in, const json& value, tool_request& to) {
  const json* function = function_of(value);
  const std::string* name = function != nullptr ? text_of(member(*function, "name")) : nullptr;
  if (name == nullptr)
    return in.fail(bad_choice(
        "must be none, auto, required, {\"type\": \"function\", \"function\": {\"name\": "
        "...}}, or {\"type\": \"allowed_tools\", \"allowed_tools\": {\"mode\": ..., "
        "\"tools\": [...]}}."));
  const bool known = std::any_of(to.tools.begin(), to.tools.end(),
                                 [&](const auto& tool) { return tool.call.name == *name; });
  if (!known) return in.fail(bad_choice("names a function that is no tool."));
  to.callable.push_back(*name);
}

// The model is told of all tools, so that what is cached of its prompt stays of use, and calls only these.
void read_allowed(field_reader& in, const json* allowed, tool_request& to) {
  const bool is_object = allowed != nullptr && allowed->is_object();
  const json* mode = is_object ? member(*allowed, "mode") : nullptr;
  const json* tools = is_object ? member(*allowed, "tools") : nullptr;
  if (mode == nullptr || (*mode != "auto" && *mode != "required"))
    return in.fail(bad_choice("of allowed_tools: mode must be auto or required."));
  if (tools == nullptr || !tools->is_array() || tools->empty())
    return in.fail(bad_choice("of allowed_tools: tools must be a list of at least one tool."));
  for (const json& tool : *tools)
    if (!in.failure()) read_callable(in, tool, to);
  to.choice = *mode == "auto" ? tool_choice::automatic : tool_choice::required;
}

void read_choice(field_reader& in, const json& value, tool_request& to) {
  if (value == "none" || value == "auto" || value == "required") {
    if (value == "required" && to.tools.empty())
      return in.fail(bad_choice("is required, but there are no tools."));
    to.choice = value == "none"   ? tool_choice::none
                : value == "auto" ? tool_choice::automatic
                                  : tool_choice::required;
    return;
  }
  if (const json* type = value.is_object() ? member(value, "type") : nullptr;
      type != nullptr && *type == "allowed_tools")
    return read_allowed(in, member(value, "allowed_tools"), to);
  read_callable(in, value, to);
  to.choice = tool_choice::named;
}

}  // namespace

void read_tools(field_reader& in, std::size_t max_tools, tool_request& to) {
  if (const json* functions = in.find("functions"); functions && *functions != json::array())
    return in.fail(unsupported_field("functions", "functions is outdated: use tools."));
  if (const json* call = in.find("function_call"); call && *call != "none" && *call != "auto")
    return in.fail(
        unsupported_field("function_call", "function_call is outdated: use tool_choice."));
  if (const json* tools = in.find("tools")) {
    if (!tools->is_array())
      return in.fail(bad_field("tools", "tools must be a list.", "invalid_type"));
    if (tools->size() > max_tools)
      return in.fail(
          bad_field("tools", "At most " + std::to_string(max_tools) + " tools are allowed."));
    for (std::size_t i = 0; i < tools->size() && !in.failure(); ++i)
      read_tool(in, "tools[" + std::to_string(i) + "]", (*tools)[i], to);
  }
  if (in.failure()) return;
  to.choice = to.tools.empty() ? tool_choice::none : tool_choice::automatic;
  if (const json* choice = in.find("tool_choice")) read_choice(in, *choice, to);
  if (to.tools.empty()) to.choice = tool_choice::none;
  in.boolean("parallel_tool_calls", to.parallel);
}

void check_tool_message(field_reader& in, const std::string& where, json& message) {
  const auto wrong = [&](const std::string& what) { in.fail(bad_field("messages", where + what)); };
  for (const char* name : {"tool_call_id", "name"})
    if (const json* value = member(message, name); value && !value->is_string())
      return wrong("." + std::string(name) + " must be a string.");
  const json* calls = member(message, "tool_calls");
  if (calls == nullptr || (calls->is_array() && calls->empty())) {
    message.erase("tool_calls");  // templates ask only whether it is there
    return;
  }
  if (message["role"] != "assistant") return wrong(".tool_calls belong to an assistant's message.");
  if (!calls->is_array() || calls->size() > max_calls)
    return wrong(".tool_calls must be a list of at most " + std::to_string(max_calls) + " calls.");
  for (const json& call : *calls) {
    const json* function = function_of(call);
    if (function == nullptr || text_of(member(*function, "name")) == nullptr)
      return wrong(
          ".tool_calls must hold {\"id\", \"type\": \"function\", \"function\": {\"name\", "
          "\"arguments\"}}.");
    if (const json* id = member(call, "id"); id && !id->is_string())
      return wrong(".tool_calls holds an id that is no string.");
    const json* arguments = member(*function, "arguments");
    if (arguments == nullptr || arguments->is_object()) continue;
    const std::string* text = text_of(arguments);
    if (text == nullptr || !(text->empty() || is_bounded_json(*text)))
      return wrong(".tool_calls holds arguments that are no JSON text" + or_too_deep);
  }
}

}  // namespace troupe::api
