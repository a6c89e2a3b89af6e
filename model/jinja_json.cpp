// Values as text: JSON as Python's json.dumps writes it, Python's str and repr, and JSON in.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/jinja_builtins.hpp"
#include "model/jinja_interpreter.hpp"
#include "model/unicode.hpp"

namespace troupe::model::jinja {
namespace {

void append_hex(std::string& out, std::uint32_t value, std::size_t digits) {
  for (std::size_t i = digits; i-- > 0;) out.push_back("0123456789abcdef"[value >> (4 * i) & 15]);
}

void append_json_ascii(std::string& out, std::uint32_t code_point) {
  const auto unit = [&](std::uint32_t value) {
    out += "\\u";
    append_hex(out, value, 4);
  };
  if (code_point < 0x10000) {
    unit(code_point);
  } else {
    unit(0xD800 + ((code_point - 0x10000) >> 10));
    unit(0xDC00 + ((code_point - 0x10000) & 0x3FF));
  }
}

class json_writer {
 public:
  json_writer(interpreter& in, const arguments& args) : in_(in) {
    const value* given = args.get(0, "indent");
    if (given != nullptr && given->as_integer()) {
      indent_ = std::string(
          static_cast<std::size_t>(std::clamp<std::int64_t>(*given->as_integer(), 0, 64)), ' ');
    } else if (given != nullptr && given->string()) {
      indent_ = given->string()->bytes();
    }
    if (indent_) comma_ = ",";
    if (const value* flag = args.get(1, "ensure_ascii")) ascii_ = flag->truthy();
    if (const value* pair = args.get(2, "separators");
        pair != nullptr && pair->as_list() != nullptr) {
      const auto& items = pair->as_list()->items;
      if (items.size() == 2 && items[0].string() && items[1].string()) {
        comma_ = items[0].string()->bytes();
        colon_ = items[1].string()->bytes();
      }
    }
    if (const value* flag = args.get(3, "sort_keys")) sort_ = flag->truthy();
  }

  result<void> write(const value& of);
  text take() { return std::move(out_); }

 private:
  void put(std::string_view bytes) { out_.append(bytes, origin::source); }
  void new_line() {
    if (!indent_) return;
    put("\n");
    for (std::size_t i = 0; i < level_; ++i) put(*indent_);
  }
  void write_string(const text& of);
  result<void> write_list(const list& of);
  result<void> write_dict(const dict& of);
  result<void> write_key(const value& key);

  interpreter& in_;
  text out_;
  std::optional<std::string> indent_;
  std::string comma_ = ", ", colon_ = ": ";
  bool ascii_ = false, sort_ = false;
  std::size_t level_ = 0;
};

result<void> json_writer::write(const value& of) {
  const interpreter::nesting level(in_);
  TROUPE_CHECK(level.check());
  TROUPE_CHECK(in_.spend(1));
  if (of.is_none()) {
    put("null");
  } else if (const bool* flag = of.boolean()) {
    put(*flag ? "true" : "false");
  } else if (const auto* integer = of.integer()) {
    put(std::to_string(*integer));
  } else if (const double* real = of.real()) {
    put(std::isnan(*real)   ? "NaN"
        : std::isinf(*real) ? (*real > 0 ? "Infinity" : "-Infinity")
                            : format_real(*real));
  } else if (const text* string = of.string()) {
    TROUPE_CHECK(in_.spend_bytes(string->size()));
    write_string(*string);
  } else if (const list* items = of.as_list()) {
    return write_list(*items);
  } else if (const dict* entries = of.as_dict(); entries != nullptr && !entries->is_namespace) {
    return write_dict(*entries);
  } else {
    return fail(ec::invalid_argument,
                "object of type " + std::string(of.type_name()) + " is not JSON serializable");
  }
  return {};
}

void json_writer::write_string(const text& of) {
  put("\"");
  std::size_t start = 0;
  for (const auto& run : of.runs()) {
    std::string escaped;
    std::string_view bytes = std::string_view(of.bytes()).substr(start, run.end - start);
    start = run.end;
    while (!bytes.empty()) {
      const auto [code_point, length] = first_code_point(bytes);
      constexpr std::string_view plain = "\"\\\n\r\t\b\f", letters = "\"\\nrtbf";
      const std::size_t named = length == 1 ? plain.find(bytes[0]) : plain.npos;
      if (named != plain.npos) {
        (escaped += '\\') += letters[named];
      } else if (code_point < 0x20 || (ascii_ && code_point > 0x7E)) {
        append_json_ascii(escaped, code_point);
      } else {
        escaped += bytes.substr(0, length);
      }
      bytes.remove_prefix(length);
    }
    out_.append(escaped, run.from);
  }
  put("\"");
}

result<void> json_writer::write_list(const list& of) {
  put("[");
  ++level_;
  for (std::size_t i = 0; i < of.items.size(); ++i) {
    if (i > 0) put(comma_);
    new_line();
    TROUPE_CHECK(write(of.items[i]));
  }
  --level_;
  if (!of.items.empty()) new_line();
  put("]");
  return {};
}

result<void> json_writer::write_key(const value& key) {
  if (const text* string = key.string()) {
    write_string(*string);
  } else if (key.as_real() || key.is_none()) {
    put("\"");
    TROUPE_CHECK(write(key));
    put("\"");
  } else {
    return fail(ec::invalid_argument,
                "keys must be strings or numbers, not " + std::string(key.type_name()));
  }
  return {};
}

result<void> json_writer::write_dict(const dict& of) {
  std::vector<const std::pair<value, value>*> entries;
  for (const auto& entry : of.items) entries.push_back(&entry);
  if (sort_)
    std::ranges::stable_sort(entries, {}, [](const auto* entry) {
      const text* key = entry->first.string();
      return key != nullptr ? std::string_view(key->bytes()) : std::string_view();
    });
  put("{");
  ++level_;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) put(comma_);
    new_line();
    TROUPE_CHECK(write_key(entries[i]->first));
    put(colon_);
    TROUPE_CHECK(write(entries[i]->second));
  }
  --level_;
  if (!entries.empty()) new_line();
  put("}");
  return {};
}

// Python's repr of a string: single quotes unless only those occur in it.
void append_string_repr(const text& of, text& out) {
  const bool doubles =
      of.bytes().find('\'') != std::string::npos && of.bytes().find('"') == std::string::npos;
  const char quote = doubles ? '"' : '\'';
  out.append({&quote, 1}, origin::source);
  std::size_t start = 0;
  for (const auto& run : of.runs()) {
    std::string escaped;
    for (const char c : std::string_view(of.bytes()).substr(start, run.end - start)) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == quote || c == '\\') {
        (escaped += '\\') += c;
      } else if (c == '\n' || c == '\r' || c == '\t') {
        (escaped += '\\') += c == '\n' ? 'n' : c == '\r' ? 'r' : 't';
      } else if (byte < 0x20 || byte == 0x7F) {
        escaped += "\\x";
        append_hex(escaped, byte, 2);
      } else {
        escaped += c;
      }
    }
    out.append(escaped, run.from);
    start = run.end;
  }
  out.append({&quote, 1}, origin::source);
}

}  // namespace

result<value> to_json(interpreter& in, const value& self, const arguments& args) {
  json_writer writer(in, args);
  TROUPE_CHECK(writer.write(self));
  return in.make_string(writer.take());
}

result<text> interpreter::to_text(const value& of) {
  if (const text* string = of.string()) return *string;
  if (of.is_undefined()) return text();
  text out;
  TROUPE_CHECK(append_repr(of, out));
  return out;
}

result<void> interpreter::append_repr(const value& of, text& out) {
  const nesting level(*this);
  TROUPE_CHECK(level.check());
  TROUPE_CHECK(spend(1));
  const auto put = [&out](std::string_view bytes) { out.append(bytes, origin::source); };
  if (const bool* flag = of.boolean()) {
    put(*flag ? "True" : "False");
  } else if (const auto* integer = of.integer()) {
    put(std::to_string(*integer));
  } else if (const double* real = of.real()) {
    put(format_real(*real));
  } else if (const text* string = of.string()) {
    TROUPE_CHECK(spend_bytes(string->size()));
    append_string_repr(*string, out);
  } else if (const list* items = of.as_list()) {
    put(items->tuple ? "(" : "[");
    for (const value& one : items->items) {
      if (&one != items->items.data()) put(", ");
      TROUPE_CHECK(append_repr(one, out));
    }
    if (items->tuple && items->items.size() == 1) put(",");
    put(items->tuple ? ")" : "]");
  } else if (const dict* entries = of.as_dict()) {
    put(entries->is_namespace ? "<Namespace {" : "{");
    for (const auto& entry : entries->items) {
      if (&entry != entries->items.data()) put(", ");
      TROUPE_CHECK(append_repr(entry.first, out));
      put(": ");
      TROUPE_CHECK(append_repr(entry.second, out));
    }
    put(entries->is_namespace ? "}>" : "}");
  } else {
    put(of.is_none()        ? "None"
        : of.is_undefined() ? "Undefined"
                            : "<" + std::string(of.type_name()) + ">");
  }
  return {};
}

template <class Json>
result<value> from_json(interpreter& in, const Json& json, origin from) {
  const interpreter::nesting level(in);
  TROUPE_CHECK(level.check());
  switch (json.type()) {
    case nlohmann::json::value_t::null:
      return value(none{});
    case nlohmann::json::value_t::boolean:
      return value(json.template get<bool>());
    case nlohmann::json::value_t::number_integer:
      return value(json.template get<std::int64_t>());
    case nlohmann::json::value_t::number_unsigned: {
      const auto number = json.template get<std::uint64_t>();
      if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return value(static_cast<double>(number));
      return value(static_cast<std::int64_t>(number));
    }
    case nlohmann::json::value_t::number_float:
      return value(json.template get<double>());
    case nlohmann::json::value_t::string:
      return value(text(json.template get_ref<const std::string&>(), from));
    case nlohmann::json::value_t::array: {
      list* made = in.memory().make_list();
      for (const auto& item : json) {
        TROUPE_TRY(value one, from_json(in, item, from));
        made->items.push_back(std::move(one));
      }
      return value(made);
    }
    case nlohmann::json::value_t::object: {
      dict* made = in.memory().make_dict();
      for (const auto& [key, item] : json.items()) {
        TROUPE_TRY(value one, from_json(in, item, from));
        made->items.emplace_back(text(key, from), std::move(one));
      }
      return value(made);
    }
    default:
      return fail(ec::invalid_argument, "template: the context holds what is not JSON");
  }
}

template result<value> from_json(interpreter&, const nlohmann::json&, origin);
template result<value> from_json(interpreter&, const nlohmann::ordered_json&, origin);

}  // namespace troupe::model::jinja
