#include <cstdio>
#include <nlohmann/json.hpp>

#include "api/commands.hpp"
#include "api/serving.hpp"
#include "api/status_table.hpp"
#include "model/inspect.hpp"
#include "model/model.hpp"

namespace troupe::api {
namespace {

using rows = std::vector<std::vector<std::string>>;

std::string mega(std::uint64_t bytes) {
  char text[64];
  std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

std::string shown(const std::optional<model::special_token>& t) {
  return t ? std::to_string(t->id) + (t->text.empty() ? "" : " " + t->text) : "none";
}

// Of what only a whole read can tell: empty when the model cannot be opened.
struct opened_facts {
  std::string digest, tokenizer, chat_template = "none";
  std::string obstacle;
};

opened_facts open_fully(const std::filesystem::path& path) {
  opened_facts facts;
  model_choice choice;
  choice.path = path;
  auto opened = open_model_file(choice, 0);
  auto served =
      opened ? make_served_model(*opened)
             : serving_result<std::shared_ptr<const served_model>>(tl::unexpected(opened.error()));
  if (!served) {
    facts.obstacle = served.error().cause.detail;
    return facts;
  }
  facts.digest = (*served)->digest;
  facts.tokenizer = (*served)->tokenizer->description();
  if ((*served)->chat_template) facts.chat_template = "usable";
  return facts;
}

rows describe(const model::model_description& d, const opened_facts& facts) {
  rows r{{"format", d.format},
         {"architecture", d.architecture},
         {"name", d.name},
         {"parameters", std::to_string(d.parameters)},
         {"size",
          mega(d.file_bytes) + (d.files > 1 ? " in " + std::to_string(d.files) + " files" : "")}};
  std::string types;
  for (const auto& t : d.types)
    types += (types.empty() ? "" : ", ") + t.type + " " + mega(t.bytes) + " in " +
             std::to_string(t.tensors);
  r.push_back({"types", types});
  if (d.config) {
    const auto& c = *d.config;
    r.push_back({"context", std::to_string(c.max_position_embeddings)});
    r.push_back({"layers", std::to_string(c.num_hidden_layers)});
    r.push_back({"hidden size", std::to_string(c.hidden_size)});
    r.push_back({"attention heads", std::to_string(c.num_attention_heads) + ", " +
                                        std::to_string(c.num_key_value_heads) + " of KV, " +
                                        std::to_string(c.head_dim) + " wide"});
  }
  r.push_back({"vocabulary", std::to_string(d.vocabulary)});
  if (!facts.tokenizer.empty()) r.push_back({"tokenizer", facts.tokenizer});
  r.push_back({"bos", shown(d.bos)});
  r.push_back({"eos", shown(d.eos)});
  r.push_back(
      {"chat template", d.has_chat_template
                            ? facts.chat_template == "usable" ? "usable" : "present, not usable"
                            : "none"});
  r.push_back({"KV per token", std::to_string(d.kv_bytes_per_token) + " bytes in f16"});
  if (!facts.digest.empty()) r.push_back({"digest", facts.digest});
  const std::string obstacle = d.runnable() ? facts.obstacle : d.obstacle;
  r.push_back({"runs here", obstacle.empty() ? "yes" : "no: " + obstacle});
  return r;
}

}  // namespace

int run_command(const inspect_config& c) {
  if (auto ok = start_logging({"off", "text", ""}); !ok)
    return complain(ok.error(), exit_configuration);
  auto path = find_model(c.model);
  if (!path) return complain(path.error(), exit_model);
  auto d = model::inspect(*path);
  if (!d) return complain(d.error(), exit_model);
  opened_facts facts;
  if (d->runnable()) facts = open_fully(*path);
  const auto table = describe(*d, facts);
  if (c.json) {
    nlohmann::ordered_json o;
    for (const auto& row : table) o[row[0]] = row[1];
    std::printf("%s\n",
                o.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  } else {
    std::fputs(align(table).c_str(), stdout);
  }
  return d->runnable() && facts.obstacle.empty() ? exit_clean : exit_model;
}

}  // namespace troupe::api
