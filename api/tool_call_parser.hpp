// Text of an answer to calls of tools, piece by piece as it arrives.
//
//   text ──a call begins──► head ──name and what precedes the arguments──► arguments ──the value ends──► head (the next call)
//   start: where the answer's first characters decide whether it is calls
//   plain: no calls will come
//
// Relies on the form of the answer (engine/structured/tool_calls): where a call begins, a call follows. What is given does
// not depend on how the text was cut, and an answer that ends in the middle gives what was there. One stream, one thread.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/parameter_reader.hpp"
#include "engine/structured/tool_calls.hpp"

namespace troupe::api {

// How an answer's calls are to be read.
struct call_reading {
  engine::structured::call_syntax syntax = engine::structured::call_syntax::hermes;
  std::vector<engine::structured::callable> tools;
  bool forced = false;  // the answer is calls and nothing else
  bool named = false;   // and one of a tool that the client named
  bool apart = false;   // it is calls, or of a form and without any
};

struct tool_event {
  enum class kind : std::uint8_t { text, call, arguments };
  kind is = kind::text;
  std::string what;  // text, the function's name, a piece of the arguments
};

class tool_call_parser {
 public:
  explicit tool_call_parser(const call_reading& how);

  std::vector<tool_event> push(std::string_view text);
  // What was withheld. Call once, at the end.
  std::vector<tool_event> flush();
  // A call has begun whose name is known.
  bool called() const { return called_; }

 private:
  enum class state : std::uint8_t { start, text, plain, head, arguments };
  using events = std::vector<tool_event>;

  bool step(events& out);  // false: more text is needed
  bool look_at_start();
  bool look_for_call(events& out);
  bool read_head(events& out);
  bool read_arguments(events& out);
  bool read_parameters(events& out);
  bool value_goes_on(char c);
  static void add(events& out, tool_event::kind is, std::string_view what);

  const engine::structured::call_notation& notation_;
  const bool apart_;
  std::vector<std::string> beginnings_;           // of calls, at the start
  std::map<std::string, parameter_forms> forms_;  // by tool, where arguments are tagged
  std::optional<parameter_reader> parameters_;    // of the call that is read
  state state_;
  std::string held_;
  bool called_ = false;
  // Of the arguments' value so far.
  bool begun_ = false, in_string_ = false, escaped_ = false, scalar_ = false;
  std::uint32_t depth_ = 0;
};

}  // namespace troupe::api
