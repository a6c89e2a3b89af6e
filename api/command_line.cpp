#include "api/command_line.hpp"

#include <algorithm>

#include "api/command_flags.hpp"
#include "api/config_file.hpp"
#include "api/migration_hints.hpp"

namespace troupe::api {
namespace {

// -- around CLI11: environment, --config, suggestions ------------------------------------------------------------------------
std::string key_of(const CLI::Option& o) {
  return o.get_lnames().empty() ? "" : o.get_lnames().front();
}

void add_everywhere(builder& b, CLI::App* a) {
  for (auto* sub : a->get_subcommands({})) add_everywhere(b, sub);
  if (!a->get_subcommands({}).empty()) return;
  for (auto* o : a->get_options({})) {
    std::string key = key_of(*o);
    if (key.empty() || key == "help") continue;
    // A number that only stands for "find it yourself" is no help to anyone.
    if (o->get_default_str() == "0" || o->get_default_str() == "-1" || o->get_default_str() == "[]")
      o->default_str("");
    std::string name = "TROUPE_";
    for (char c : key)
      name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    o->envname(name);
  }
  a->add_option("--config", b.config_files[a], "TOML file with flags as keys")
      ->envname("TROUPE_CONFIG");
}

CLI::App* chosen(CLI::App& app) {
  CLI::App* a = &app;
  while (!a->get_subcommands().empty()) a = a->get_subcommands().front();
  return a;
}

std::string closest(const CLI::App& a, std::string_view wrong) {
  std::string best;
  std::size_t distance = wrong.size() / 3 + 2;
  auto look = [&](const std::string& candidate) {
    const auto d = edit_distance(candidate, wrong);
    if (d < distance) distance = d, best = candidate;
  };
  for (const auto* o : a.get_options({}))
    for (const auto& name : o->get_lnames()) look("--" + name);
  for (const auto* sub : a.get_subcommands({})) look(sub->get_name());
  return best;
}

std::string unknown(const CLI::App& a, const std::string& wrong) {
  std::string text = "unknown " + std::string(wrong.rfind('-', 0) == 0 ? "flag " : "word ") + wrong;
  const auto name = wrong.substr(0, wrong.find('='));
  if (const auto hint = hint_for_flag(name); !hint.empty()) return text + ": " + std::string(hint);
  if (auto guess = closest(a, name); !guess.empty()) text += "; did you mean " + guess + "?";
  return text;
}

// A value that nobody typed came from the environment, and is called by its name there.
std::string blame(const CLI::App& a, const std::vector<std::string>& typed, std::string text) {
  for (const auto* o : a.get_options({})) {
    const std::string flag = o->get_name();
    const auto is_it = [&](const std::string& word) {
      const auto& letters = o->get_snames();
      return word == flag || word.starts_with(flag + "=") ||
             std::any_of(letters.begin(), letters.end(),
                         [&](const auto& letter) { return word.starts_with("-" + letter); });
    };
    const char* value = o->get_envname().empty() ? nullptr : std::getenv(o->get_envname().c_str());
    if (!value || !text.starts_with(flag + ": " + value)) continue;
    if (std::none_of(typed.begin(), typed.end(), is_it))
      text.replace(0, flag.size(), o->get_envname());
  }
  return text;
}

// As people type it: "troupe bench serve".
std::string path_of(const CLI::App* a) {
  if (!a) return {};
  const auto before = path_of(a->get_parent());
  return before.empty() ? a->get_name() : before + " " + a->get_name();
}

parsed_line wrong_line(std::string text, const CLI::App* a) {
  return {
      {}, "troupe: " + std::move(text) + "\nTry: " + path_of(a) + " --help\n", exit_configuration};
}

result<void> finish(builder& b) {
  actors::engine_settings* engines[] = {&b.serve.node.engine, &b.node.node.engine,
                                        &b.run.node.engine, &b.chat.node.engine};
  for (int i = 0; i < 4; ++i) {
    if (b.kv_memory[i].empty()) continue;
    TROUPE_TRY(engines[i]->kv_memory_bytes, parse_bytes(b.kv_memory[i], "--kv-memory"));
  }
  actors::store_settings* stores[] = {&b.serve.node.store, &b.node.node.store};
  for (int i = 0; i < 2; ++i) {
    if (!b.store_memory[i].empty()) {
      TROUPE_TRY(stores[i]->memory_bytes, parse_bytes(b.store_memory[i], "--kv-store-memory"));
    }
    if (!b.store_disk_size[i].empty()) {
      TROUPE_TRY(stores[i]->disk_bytes, parse_bytes(b.store_disk_size[i], "--kv-store-disk-size"));
    }
  }
  return {};
}

any_command take(builder& b, const CLI::App& a) {
  const std::string name = a.get_name();
  if (a.get_parent()->get_name() == "bench") {
    if (name == "serve") return std::move(b.bench_serve);
    if (name == "engine") return std::move(b.bench_engine);
    return std::move(b.bench_kv);
  }
  if (a.get_parent()->get_name() == "cache")
    for (auto& c : b.cache)
      if (c.action == name) return std::move(c);
  if (name == "serve") return std::move(b.serve);
  if (name == "node") return std::move(b.node);
  if (name == "launch") return std::move(b.launch);
  if (name == "run") return std::move(b.run);
  if (name == "chat") return std::move(b.chat);
  if (name == "inspect") return std::move(b.inspect);
  if (name == "tokenize") return std::move(b.tokenize);
  if (name == "status") return std::move(b.status);
  if (name == "drain") return std::move(b.drain);
  if (name == "simulate") return std::move(b.simulate);
  if (name == "quantize") return std::move(b.quantize);
  if (name == "prune") return std::move(b.prune);
  return version_config{};
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j)
      diagonal = std::exchange(
          row[j], std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])}));
  }
  return row[b.size()];
}

parsed_line parse_command_line(const std::vector<std::string>& arguments) {
  if (arguments == std::vector<std::string>{"--version"}) return {version_config{}, {}, exit_clean};
  builder b;
  build(b);
  add_everywhere(b, &b.app);
  // It would be read as -h with -f.
  if (std::find(arguments.begin(), arguments.end(), "-hf") != arguments.end())
    return wrong_line(unknown(b.app, "-hf"), &b.app);
  try {
    b.app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::CallForHelp&) {
    return {{}, chosen(b.app)->help(path_of(chosen(b.app)->get_parent())), exit_clean};
  } catch (const CLI::ExtrasError&) {
    auto* a = chosen(b.app);
    const auto extras = b.app.remaining(true);
    return wrong_line(extras.empty() ? "unknown arguments" : unknown(*a, extras.front()), a);
  } catch (const CLI::ParseError& e) {
    auto* a = chosen(b.app);
    const auto extras = b.app.remaining(true);
    if (!a->get_subcommands({}).empty() && !extras.empty())
      return wrong_line(unknown(*a, extras.front()), a);
    return wrong_line(blame(*a, arguments, what_is_wrong(e)), a);
  }
  CLI::App* a = chosen(b.app);
  if (!b.config_files[a].empty())
    if (auto ok = apply_config_file(*a, b.config_files[a]); !ok)
      return wrong_line(ok.error().detail, a);
  if (auto ok = finish(b); !ok) return wrong_line(ok.error().detail, a);
  any_command what = take(b, *a);
  if (auto* serve = std::get_if<serve_config>(&what)) {
    if (auto ok = validate(*serve); !ok) return wrong_line(ok.error().detail, a);
  } else if (auto* node = std::get_if<node_config>(&what)) {
    if (auto ok = validate(*node); !ok) return wrong_line(ok.error().detail, a);
  }
  return {std::move(what), {}, exit_clean};
}

}  // namespace troupe::api
