#include "api/parameter_reader.hpp"

#include <algorithm>

#include "api/json_input.hpp"
#include "api/text_overlap.hpp"

namespace troupe::api {
namespace {

using engine::structured::parameter_form;

constexpr std::string_view null_text = "null";

}  // namespace

bool parameter_reader::take(std::string& held, std::string& json) {
  while (!whole_ && (in_value_ ? read_value(held, json) : read_tag(held, json))) {
  }
  return whole_;
}

bool parameter_reader::read_tag(std::string& held, std::string& json) {
  using engine::structured::parameter_name_end, engine::structured::parameter_open,
      engine::structured::parameters_close;
  const auto open = held.find(parameter_open), close = held.find(parameters_close);
  if (close < open) {
    json += any_ ? "}" : "{}";
    held.erase(0, close + parameters_close.size());
    whole_ = true;
    return false;
  }
  if (open == held.npos) return false;
  const auto first = open + parameter_open.size(), end = held.find(parameter_name_end, first);
  if (end == held.npos) return false;
  const std::string name = held.substr(first, end - first);
  held.erase(0, end + parameter_name_end.size());
  json += std::exchange(any_, true) ? ", " : "{";
  json += dump(name) + ": ";
  const auto known = forms_->find(name);
  form_ = known == forms_->end() ? parameter_form::text : known->second;
  in_value_ = true;
  quoted_ = false;
  return true;
}

// Up to the closing tag, whose beginning is withheld; of what may be null as long as it may.
bool parameter_reader::read_value(std::string& held, std::string& json) {
  using engine::structured::parameter_close;
  const auto close = held.find(parameter_close);
  const bool ended = close != held.npos;
  const auto text = std::string_view(held).substr(
      0, ended ? close : held.size() - overlap(held, parameter_close));
  if (form_ == parameter_form::json) {
    json += text;
  } else if (form_ == parameter_form::text_or_null && !quoted_ &&
             (ended ? text == null_text : null_text.starts_with(text))) {
    if (!ended) return false;
    json += null_text;
  } else {
    if (!std::exchange(quoted_, true)) json += '"';
    add_text(text, json);
    if (ended) json += '"';
  }
  held.erase(0, ended ? close + parameter_close.size() : text.size());
  in_value_ = !ended;
  return ended;
}

// As it stands between quotes. Bytes beyond ASCII are kept: a character may be cut here.
void parameter_reader::add_text(std::string_view text, std::string& json) {
  for (const char c : text) {
    const bool plain = static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\';
    if (plain) {
      json += c;
    } else {
      const std::string quoted = dump(std::string(1, c));
      json.append(quoted, 1, quoted.size() - 2);
    }
  }
}

}  // namespace troupe::api
