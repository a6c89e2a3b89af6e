// tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json into
// metadata.
#include <nlohmann/json.hpp>

#include "model/hugging_face.hpp"
#include "model/strict_json.hpp"

namespace troupe::model {

namespace {

using nlohmann::json;

constexpr std::uint64_t max_tokenizer_bytes = 64u << 20, max_config_bytes = 16u << 20;

// Empty when the file does not exist.
result<std::string> optional_text(const std::filesystem::path& path, std::uint64_t limit) {
  auto text = read_text_file(path, limit);
  if (!text && text.error().code == ec::not_found) return std::string();
  return text;
}

result<json> optional_json(const std::filesystem::path& path) {
  TROUPE_TRY(auto text, optional_text(path, max_config_bytes));
  if (text.empty()) return json::object();
  TROUPE_TRY(auto parsed, parse_strict_json(text, path.string()));
  if (!parsed.is_object()) return fail(ec::corrupt_file, path.string() + ": is no JSON object");
  return parsed;
}

// A string, or a list of named templates of which "default" is the one for chat.
std::string chat_template_of(const json& config) {
  auto found = config.find("chat_template");
  if (found == config.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) return {};
  for (const auto& one : *found)
    if (one.is_object() && one.value("name", json()) == "default" && one.contains("template") &&
        one["template"].is_string())
      return one["template"].get<std::string>();
  return {};
}

// An id, or a list of them. Negative ids (some configs say -1 for "none") are left out.
std::vector<std::uint32_t> token_ids(const json& config, std::string_view field) {
  auto found = config.find(field);
  if (found == config.end()) return {};
  std::vector<std::uint32_t> ids;
  auto take = [&ids](const json& value) {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() <= UINT32_MAX)
      ids.push_back(value.get<std::uint32_t>());
  };
  if (found->is_array())
    for (const auto& value : *found) take(value);
  else
    take(*found);
  return ids;
}

}  // namespace

result<void> read_hugging_face_tokenizer(const std::filesystem::path& directory, const json& config,
                                         metadata& into) {
  TROUPE_TRY(auto tokenizer, optional_text(directory / "tokenizer.json", max_tokenizer_bytes));
  if (!tokenizer.empty()) into.set_string(metadata_keys::hf_tokenizer_json, tokenizer);
  TROUPE_TRY(auto settings_text,
             optional_text(directory / "tokenizer_config.json", max_config_bytes));
  if (!settings_text.empty())
    into.set_string(metadata_keys::hf_tokenizer_config_json, settings_text);
  TROUPE_TRY(auto settings, optional_json(directory / "tokenizer_config.json"));
  TROUPE_TRY(auto jinja, optional_text(directory / "chat_template.jinja", max_config_bytes));
  if (jinja.empty()) jinja = chat_template_of(settings);
  if (!jinja.empty()) into.set_string("tokenizer.chat_template", jinja);
  for (std::string_view field : {"add_bos_token", "add_eos_token"})
    if (auto found = settings.find(field); found != settings.end() && found->is_boolean())
      into.set_bool("tokenizer.ggml." + std::string(field), found->get<bool>());

  // generation_config.json is the newer word on what ends an answer.
  TROUPE_TRY(auto generation, optional_json(directory / "generation_config.json"));
  auto ends = token_ids(generation, "eos_token_id");
  if (ends.empty()) ends = token_ids(config, "eos_token_id");
  if (!ends.empty()) {
    into.set_u32("tokenizer.ggml.eos_token_id", ends[0]);
    into.set_numbers(metadata_keys::hf_eos_token_ids, value_type::u32,
                     std::as_bytes(std::span(ends)));
  }
  auto begins = token_ids(config, "bos_token_id");
  if (begins.empty()) begins = token_ids(generation, "bos_token_id");
  if (!begins.empty()) into.set_u32("tokenizer.ggml.bos_token_id", begins[0]);
  return {};
}

}  // namespace troupe::model
