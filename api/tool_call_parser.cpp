#include "api/tool_call_parser.hpp"

#include <algorithm>

#include "api/text_overlap.hpp"

namespace troupe::api {
namespace {

using kind = tool_event::kind;

constexpr std::string_view blanks = " \n\t\r";

}  // namespace

tool_call_parser::tool_call_parser(const call_reading& how)
    : notation_(engine::structured::notation_of(how.syntax)),
      apart_(how.apart && !how.forced),
      state_(how.forced                    ? state::head
             : notation_.bare || how.apart ? state::start
                                           : state::text) {
  for (const auto& tool : how.tools) {
    if (notation_.tagged) forms_[tool.name] = engine::structured::parameter_forms(tool.parameters);
    if (state_ != state::start || apart_) continue;
    for (std::string& begun : engine::structured::bare_beginnings(notation_, tool.name))
      beginnings_.push_back(std::move(begun));
  }
  if (apart_) beginnings_.emplace_back(notation_.open);
}

std::vector<tool_event> tool_call_parser::push(std::string_view text) {
  held_ += text;
  events out;
  while (step(out)) {
  }
  return out;
}

std::vector<tool_event> tool_call_parser::flush() {
  events out;
  if (state_ == state::start || state_ == state::text) add(out, kind::text, held_);
  held_.clear();
  return out;
}

void tool_call_parser::add(events& out, kind is, std::string_view what) {
  if (what.empty()) return;
  if (is != kind::call && !out.empty() && out.back().is == is)
    out.back().what += what;
  else
    out.push_back({is, std::string(what)});
}

bool tool_call_parser::step(events& out) {
  switch (state_) {
    case state::start:
      return look_at_start();
    case state::text:
      return look_for_call(out);
    case state::plain:
      add(out, kind::text, held_);
      held_.clear();
      return false;
    case state::head:
      return read_head(out);
    case state::arguments:
      return read_arguments(out);
  }
  return false;
}

bool tool_call_parser::look_at_start() {
  // The grammar lets calls behind their mark begin with a blank, bare ones not.
  std::string_view seen = held_;
  if (apart_) seen.remove_prefix(std::min(seen.find_first_not_of(blanks), seen.size()));
  bool open = false;
  for (const std::string& begun : beginnings_) {
    if (seen.starts_with(begun)) {
      state_ = state::head;
      return true;
    }
    open |= begun.starts_with(seen);
  }
  if (open) return false;
  state_ = apart_ ? state::plain : state::text;
  return true;
}

// Blanks are withheld until something follows: those before a call are not part of the text.
bool tool_call_parser::look_for_call(events& out) {
  const auto at = held_.find(notation_.open);
  const std::size_t end = at != held_.npos ? at : held_.size() - overlap(held_, notation_.open);
  const auto last = std::string_view(held_).substr(0, end).find_last_not_of(blanks);
  const std::size_t certain = last == std::string_view::npos ? 0 : last + 1;
  add(out, kind::text, std::string_view(held_).substr(0, certain));
  held_.erase(0, at != held_.npos ? at + notation_.open.size() : certain);
  if (at == held_.npos) return false;
  state_ = state::head;
  return true;
}

bool tool_call_parser::read_head(events& out) {
  const auto named = held_.find(notation_.name_key);
  if (named == held_.npos) return false;
  const auto key = held_.find(notation_.arguments_key, named + notation_.name_key.size());
  if (key == held_.npos) return false;
  std::string_view before = std::string_view(held_).substr(0, key);
  before.remove_prefix(named + notation_.name_key.size());
  std::string_view name;
  if (notation_.in_json) {
    // ... "name": "NAME", and then blanks
    const auto end = before.rfind('"');
    const auto first = end == before.npos || end == 0 ? before.npos : before.rfind('"', end - 1);
    if (first != before.npos) name = before.substr(first + 1, end - first - 1);
  } else {
    const auto open = before.rfind(notation_.open);
    name = open == before.npos ? before : before.substr(open + notation_.open.size());
    name.remove_prefix(std::min(name.find_first_not_of(blanks), name.size()));
  }
  if (notation_.tagged) parameters_.emplace(forms_[std::string(name)]);
  out.push_back({kind::call, std::string(name)});
  called_ = true;
  held_.erase(0, key + notation_.arguments_key.size());
  begun_ = in_string_ = escaped_ = scalar_ = false;
  depth_ = 0;
  state_ = state::arguments;
  return true;
}

// Follows one byte of the value; false if it is not part of it any more.
bool tool_call_parser::value_goes_on(char c) {
  if (in_string_) {
    if (escaped_)
      escaped_ = false;
    else if (c == '\\')
      escaped_ = true;
    else if (c == '"')
      in_string_ = false;
    return true;
  }
  if (depth_ == 0 && (c == '}' || c == ']' || c == ',')) return false;
  if (depth_ == 0 && scalar_ && blanks.find(c) != blanks.npos) return false;
  if (c == '"')
    in_string_ = true;
  else if (c == '{' || c == '[')
    ++depth_;
  else if (c == '}' || c == ']')
    --depth_;
  else if (depth_ == 0)
    scalar_ = true;
  return true;
}

bool tool_call_parser::read_parameters(events& out) {
  std::string json;
  const bool whole = parameters_->take(held_, json);
  add(out, kind::arguments, json);
  if (whole) state_ = state::head;
  return whole;
}

bool tool_call_parser::read_arguments(events& out) {
  if (notation_.tagged) return read_parameters(out);
  if (!begun_) {
    held_.erase(0, std::min(held_.find_first_not_of(blanks), held_.size()));
    if (held_.empty()) return false;
    begun_ = true;
  }
  std::size_t n = 0;
  bool whole = false;
  while (n < held_.size() && !whole) {
    if (!value_goes_on(held_[n])) {
      whole = true;
      break;
    }
    ++n;
    whole = !in_string_ && !scalar_ && depth_ == 0;
  }
  add(out, kind::arguments, std::string_view(held_).substr(0, n));
  held_.erase(0, n);
  if (whole) state_ = state::head;
  return whole;
}

}  // namespace troupe::api
