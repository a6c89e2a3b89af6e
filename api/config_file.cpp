#include "api/config_file.hpp"

#include <toml++/toml.h>
#include <sstream>

#include "api/command_line.hpp"
#include "api/flag_values.hpp"

namespace troupe::api {
namespace {

// The text that the flag would have been given; nothing for tables and dates.
std::optional<std::string> as_text(const toml::node& node) {
  if (auto s = node.as_string()) return s->get();
  if (auto b = node.as_boolean()) return b->get() ? "true" : "false";
  if (auto i = node.as_integer()) return std::to_string(i->get());
  if (auto f = node.as_floating_point()) {
    std::ostringstream text;
    text.precision(17);
    text << f->get();
    return text.str();
  }
  return {};
}

tl::unexpected<error> bad(const std::filesystem::path& file, const std::string& why) {
  return fail(ec::invalid_argument, "--config '" + file.string() + "': " + why);
}

result<void> apply(CLI::App& command, const std::filesystem::path& file, const std::string& key,
                   const toml::node& value) {
  CLI::Option* option = command.get_option_no_throw("--" + key);
  if (!option || key == "config" || key == "help") {
    std::string best;
    std::size_t distance = key.size() / 3 + 2;
    for (const auto* o : command.get_options({}))
      for (const auto& name : o->get_lnames())
        if (const auto d = edit_distance(name, key); d < distance) distance = d, best = name;
    return bad(
        file, "unknown key '" + key + "'" + (best.empty() ? "" : "; did you mean '" + best + "'?"));
  }
  if (option->count() > 0) return {};  // a flag or the environment said it
  std::vector<std::string> texts;
  if (const auto* list = value.as_array()) {
    for (const auto& one : *list) {
      auto text = as_text(one);
      if (!text) return bad(file, "'" + key + "' must hold plain values");
      texts.push_back(std::move(*text));
    }
  } else {
    auto text = as_text(value);
    if (!text) return bad(file, "'" + key + "' must be a plain value");
    texts.push_back(std::move(*text));
  }
  try {
    if (option->get_items_expected_max() == 0)
      texts.front() = option->get_flag_value(key, texts.front());
    for (auto& text : texts) option->add_result(text);
    option->run_callback();
  } catch (const CLI::Error& e) {
    return bad(file, what_is_wrong(e));
  }
  return {};
}

}  // namespace

result<void> apply_config_file(CLI::App& command, const std::filesystem::path& file) {
  toml::table table;
  try {
    table = toml::parse_file(file.string());
  } catch (const toml::parse_error& e) {
    return bad(file, std::string(e.description()) + " (line " +
                         std::to_string(e.source().begin.line) + ")");
  }
  for (const auto& [key, value] : table) {
    const std::string name(key.str());
    TROUPE_CHECK(apply(command, file, name, value));
  }
  return {};
}

}  // namespace troupe::api
