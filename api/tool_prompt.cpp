#include "api/tool_prompt.hpp"

#include "base/hash.hpp"
#include "engine/structured/tagged_parameters.hpp"

namespace troupe::api {
namespace {

using ojson = nlohmann::ordered_json;
using engine::structured::call_syntax;

ojson object_of(const tool_definition& tool) {
  ojson function{{"name", tool.call.name}};
  if (!tool.description.empty()) function["description"] = tool.description;
  function["parameters"] = tool.call.parameters.empty()
                               ? ojson{{"type", "object"}, {"properties", ojson::object()}}
                               : ojson::parse(tool.call.parameters, nullptr, false);
  return {{"type", "function"}, {"function", std::move(function)}};
}

// The arguments as an object, whichever way the client wrote them.
ojson arguments_of(const ojson& function) {
  const ojson given = function.value("arguments", ojson());
  if (given.is_object()) return given;
  ojson parsed = given.is_string() && given != ""
                     ? ojson::parse(given.get_ref<const std::string&>(), nullptr, false)
                     : ojson::object();
  return parsed.is_discarded() ? ojson::object() : parsed;
}

// Mistral's templates take ids of nine letters and digits only; clients bring others from elsewhere.
std::string short_id(const std::string& id) {
  const bool fits = id.size() == 9 && id.find_first_not_of(
                                          "0123456789abcdefghijklmnopqrstuvwxyz"
                                          "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == id.npos;
  if (fits) return id;
  hash128_stream h;
  h.update(std::as_bytes(std::span(id)));
  return to_hex(h.digest()).substr(0, 9);
}

bool wants_short_ids(call_syntax syntax) {
  return syntax == call_syntax::mistral || syntax == call_syntax::mistral_args;
}

void keep_calls(ojson& message, const tool_manner& manner, const model::tool_support& support) {
  const bool shorten = wants_short_ids(manner.syntax);
  if (const ojson id = message.value("tool_call_id", ojson()); id.is_string() && shorten)
    message["tool_call_id"] = short_id(id.get<std::string>());
  if (!message.contains("tool_calls")) return;
  ojson calls = ojson::array();
  for (const ojson& call : message["tool_calls"]) {
    ojson arguments = arguments_of(call["function"]);
    if (support.text_arguments) arguments = dump(arguments);
    ojson one;
    const ojson id = call.value("id", ojson());
    if (id.is_string())
      one["id"] = shorten ? short_id(id.get<std::string>()) : id.get<std::string>();
    one["type"] = "function";
    one["function"] = {{"name", call["function"]["name"]}, {"arguments", std::move(arguments)}};
    calls.push_back(std::move(one));
  }
  message["tool_calls"] = std::move(calls);
  if (support.null_content && message["content"] == "") message["content"] = nullptr;
}

// A call as the model is to write it, `arguments` as JSON.
std::string call_text(call_syntax syntax, const std::string& name, const ojson& arguments) {
  const auto& n = engine::structured::notation_of(syntax);
  const std::string open(n.open), close(n.close), value = dump(arguments);
  const auto object = [&](const char* key) {
    return "{\"name\": " + dump(ojson(name)) + ", \"" + key + "\": " + value + "}";
  };
  switch (syntax) {
    case call_syntax::hermes:
      return open + "\n" + object("arguments") + "\n" + close;
    case call_syntax::llama3_json:
      return object("parameters");
    case call_syntax::mistral:
      return open + "[" + object("arguments") + "]";
    case call_syntax::mistral_args:
      return open + name + std::string(n.arguments_key) + value;
    case call_syntax::deepseek_v3:
    case call_syntax::deepseek_v31: {
      const bool fenced = syntax == call_syntax::deepseek_v3;
      return open + std::string(n.call_open) +
             (fenced ? "function" + std::string(n.name_key) : std::string()) + name +
             std::string(n.arguments_key) + value + (fenced ? "\n```" : "") +
             std::string(n.call_close) + close;
    }
    case call_syntax::qwen3_coder: {
      using namespace engine::structured;
      std::string text =
          open + "\n" + std::string(n.name_key) + name + std::string(n.arguments_key);
      for (const auto& [key, one] : arguments.items()) {
        text += std::string(parameter_open) + key + std::string(parameter_name_end);
        text += one.is_string() ? one.get<std::string>() : dump(one);
        text += std::string(parameter_close) + "\n";
      }
      return text + std::string(parameters_close) + "\n" + close;
    }
  }
  return {};
}

// What the tools of one round gave becomes one message of the user, as templates want roles to take turns.
ojson written_out(const ojson& messages, call_syntax syntax) {
  ojson out = ojson::array();
  bool responding = false;
  for (const ojson& message : messages) {
    const bool is_response = message["role"] == "tool" || message["role"] == "function";
    std::string text = message["content"].is_string() ? message["content"].get<std::string>() : "";
    if (is_response) {
      text = "<tool_response>\n" + text + "\n</tool_response>";
      if (responding) {
        out.back()["content"] = out.back()["content"].get<std::string>() + "\n" + text;
        continue;
      }
      out.push_back({{"role", "user"}, {"content", text}});
    } else {
      ojson kept = message;
      kept.erase("tool_calls");
      for (const ojson& call : message.value("tool_calls", ojson::array())) {
        if (!text.empty()) text += '\n';
        text += call_text(syntax, call["function"]["name"].get<std::string>(),
                          arguments_of(call["function"]));
      }
      kept["content"] = text;
      out.push_back(std::move(kept));
    }
    responding = is_response;
  }
  return out;
}

std::string instructions(const std::vector<tool_definition>& tools, call_syntax syntax) {
  std::string text =
      "You can call functions to help the user. Their signatures are JSON, one a line, between "
      "<tools> and </tools>:\n<tools>\n";
  for (const tool_definition& tool : tools) text += dump(object_of(tool)) + "\n";
  text += "</tools>\nTo call a function, write ";
  text +=
      syntax == call_syntax::hermes
          ? "its name and its arguments as a JSON object between <tool_call> and </tool_call>:\n"
          : "its name and its arguments in this form:\n";
  text += call_text(syntax, "function_name", {{"argument", "value"}});
  text += "\nWhat it returns comes between <tool_response> and </tool_response>.";
  return text;
}

}  // namespace

tool_manner tool_manner_of(const model::chat_template& t, std::string_view parser) {
  tool_manner manner;
  manner.served = parser != "none";
  const model::tool_support support = t.tools();
  auto syntax = engine::structured::call_syntax_of(parser);
  if (!syntax && t.mentions("[TOOL_CALLS]"))
    syntax = t.mentions("[ARGS]") ? call_syntax::mistral_args : call_syntax::mistral;
  if (!syntax && t.mentions("<｜tool▁calls▁begin｜>"))
    syntax = t.mentions("```json") ? call_syntax::deepseek_v3 : call_syntax::deepseek_v31;
  if (!syntax && t.mentions("<tool_call>"))
    syntax = t.mentions("<function=") ? call_syntax::qwen3_coder : call_syntax::hermes;
  if (!syntax &&
      (t.mentions("<|python_tag|>") || (t.mentions("ipython") && t.mentions("\"parameters\""))))
    syntax = call_syntax::llama3_json;
  manner.syntax = syntax.value_or(call_syntax::hermes);
  // Instructions to write calls as we do not read them would contradict ours.
  manner.tools_in_template = syntax && support.tools;
  manner.calls_in_template = syntax && support.calls;
  return manner;
}

void put_tools(ojson& context, const tool_request& request, const tool_manner& manner,
               const model::tool_support& support) {
  ojson& messages = context["messages"];
  if (manner.calls_in_template) {
    for (ojson& message : messages) keep_calls(message, manner, support);
  } else {
    messages = written_out(messages, manner.syntax);
  }
  if (!request.active()) return;
  if (manner.tools_in_template) {
    ojson& tools = context["tools"] = ojson::array();
    for (const tool_definition& tool : request.tools) tools.push_back(object_of(tool));
    return;
  }
  std::string text = instructions(request.tools, manner.syntax);
  if (!messages.empty() && messages[0]["role"] == "system") {
    const std::string own = messages[0]["content"].get<std::string>();
    messages[0]["content"] = own.empty() ? text : own + "\n\n" + text;
  } else {
    messages.insert(messages.begin(), ojson{{"role", "system"}, {"content", text}});
  }
}

}  // namespace troupe::api
