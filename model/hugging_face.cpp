#include "model/hugging_face.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "model/architecture.hpp"
#include "model/mapped_file.hpp"
#include "model/safetensors.hpp"
#include "model/strict_json.hpp"

namespace troupe::model {

namespace {

using nlohmann::json;

constexpr std::uint64_t max_config_bytes = 16u << 20, max_index_bytes = 64u << 20;
constexpr std::size_t max_files = 1024;

// GGUF's name of a tensor; empty for one that is not needed; the name itself when it is unknown,
// for bind_weights to refuse.
std::string gguf_name(const architecture& arch, const std::string& name) {
  if (name.ends_with(".rotary_emb.inv_freq"))
    return {};  // computed, and stored only by old versions
  for (const auto& slot : arch.global)
    if (slot.hugging_face == name) return std::string(slot.gguf);
  constexpr std::string_view layers = "model.layers.";
  if (!name.starts_with(layers)) return name;
  const std::string_view rest = std::string_view(name).substr(layers.size());
  std::uint32_t layer = 0;
  auto [end, failed] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  // "01" and "1" must not be one layer.
  const auto digits = static_cast<std::size_t>(end - rest.data());
  if (failed != std::errc() || std::to_string(layer) != rest.substr(0, digits)) return name;
  if (digits == rest.size() || rest[digits] != '.') return name;
  for (const auto& slot : arch.layer)
    if (slot.hugging_face == rest.substr(digits + 1))
      return "blk." + std::to_string(layer) + "." + std::string(slot.gguf);
  return name;
}

constexpr std::string_view scale_suffix = "_scale";
// The second is DeepSeek's and transformers' name: what their weights were divided by, so that it is multiplied with, too.
constexpr std::string_view scale_names[] = {".weight_scale", ".weight_scale_inv"};

// Scales that F8_E4M3 checkpoints have for activations and KV: here these are quantized by what they are, if at all.
bool is_of_activations(std::string_view name) {
  return name.ends_with(".input_scale") || name.ends_with(".input_scale_ub") ||
         name.ends_with(".output_scale") || name.ends_with(".k_scale") ||
         name.ends_with(".v_scale");
}

std::string name_of(const architecture& arch, const std::string& name) {
  if (is_of_activations(name)) return {};
  for (const std::string_view scale : scale_names) {
    if (!name.ends_with(scale)) continue;
    return gguf_name(arch, name.substr(0, name.size() - scale.size()) + ".weight") +
           std::string(scale_suffix);
  }
  return gguf_name(arch, name);
}

// Of a tensor of this shape; count is 0, which bind_weights refuses, where they do not fit it.
scale_values scales_of(const stored_tensor& t, const stored_tensor& s, const scale_block& block) {
  scale_values scales{static_cast<tensor_type>(s.raw_type),
                      s.shape[0] * s.shape[1] * s.shape[2] * s.shape[3], s.data};
  if (block.rows == 0) {
    if (scales.count != *std::max_element(s.shape.begin(), s.shape.end())) scales.count = 0;
    return scales;
  }
  const auto blocks = [](std::uint64_t extent, std::uint64_t size) {
    return extent / size + (extent % size != 0);
  };
  if (t.shape[2] * t.shape[3] == 1 && s.shape[2] * s.shape[3] == 1 &&
      s.shape[0] == blocks(t.shape[0], block.columns) &&
      s.shape[1] == blocks(t.shape[1], block.rows)) {
    scales.block_rows = block.rows;
    scales.block_columns = block.columns;
  } else {
    scales.count = 0;
  }
  return scales;
}

// Gives F8_E4M3 tensors the scales that lie beside them, which are no tensors of the model.
result<void> attach_scales(model_source& source, const scale_block& block) {
  std::map<std::string, stored_tensor, std::less<>> scales;
  std::string twice;
  std::erase_if(source.tensors, [&](const stored_tensor& t) {
    if (!t.name.ends_with(scale_suffix)) return false;
    if (!scales.emplace(t.name, t).second) twice = t.name;
    return true;
  });
  if (!twice.empty())
    return fail(ec::corrupt_file, source.meta->source() + ": " + printable(twice) +
                                      " is there as 'weight_scale' and as 'weight_scale_inv'");
  for (stored_tensor& t : source.tensors) {
    if (t.raw_type != static_cast<std::uint32_t>(tensor_type::f8_e4m3)) continue;
    auto found = scales.find(t.name + std::string(scale_suffix));
    if (found == scales.end())
      return fail(ec::corrupt_file, source.meta->source() + ": tensor " + printable(t.name) +
                                        " is F8_E4M3 and has no 'weight_scale'");
    const stored_tensor& s = found->second;
    const auto type = static_cast<tensor_type>(s.raw_type);
    if (type != tensor_type::f32 && type != tensor_type::f16 && type != tensor_type::bf16)
      return fail(ec::unsupported, source.meta->source() + ": tensor " + printable(s.name) +
                                       " is not F32, F16 or BF16");
    t.scales = scales_of(t, s, block);
    scales.erase(found);
  }
  if (!scales.empty())
    return fail(ec::unsupported, source.meta->source() + ": tensor " +
                                     printable(scales.begin()->first) +
                                     " belongs to no tensor of F8_E4M3");
  return {};
}

// A file name that stays in its directory whatever the index says.
bool plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && !name.starts_with('.') &&
         name.ends_with(".safetensors") &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

// Which file holds which tensors, from model.safetensors.index.json.
using weight_map = std::map<std::string, std::set<std::string>>;

result<weight_map> read_index(const std::filesystem::path& path) {
  TROUPE_TRY(auto text, read_text_file(path, max_index_bytes));
  TROUPE_TRY(auto index, parse_strict_json(text, path.string(), {.depth = 4}));
  auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || map == index.end() || !map->is_object())
    return fail(ec::corrupt_file, path.string() + ": has no object 'weight_map'");
  weight_map files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !plain_name(file.get_ref<const std::string&>()))
      return fail(ec::corrupt_file,
                  path.string() + ": tensor " + printable(tensor) + " is in " +
                      printable(file.is_string() ? file.get<std::string>() : file.dump()) +
                      ", which is not the plain name of a .safetensors file in this directory");
    files[file.get<std::string>()].insert(tensor);
  }
  if (files.empty() || files.size() > max_files)
    return fail(ec::corrupt_file, path.string() + ": names " + std::to_string(files.size()) +
                                      " files, not 1 to " + std::to_string(max_files));
  return files;
}

struct directory_reader {
  std::filesystem::path directory;
  const architecture& arch;
  model_source& source;

  // `expected`: what the index says of this file; nullptr without an index.
  result<void> add_file(const std::string& name, const std::set<std::string>* expected) {
    const auto path = directory / name;
    TROUPE_TRY(auto file, mapped_file::open(path));
    TROUPE_TRY(auto tensors, parse_safetensors(file->bytes(), path.string()));
    if (expected) TROUPE_CHECK(compare(path, tensors, *expected));
    for (auto& tensor : tensors) {
      tensor.name = name_of(arch, tensor.name);
      if (!tensor.name.empty()) source.tensors.push_back(std::move(tensor));
    }
    source.file_bytes += file->bytes().size();
    source.files.push_back(std::move(file));
    return {};
  }

  // The index and the file must agree both ways; as each tensor is in one file of the index, no
  // tensor is read twice.
  static result<void> compare(const std::filesystem::path& path,
                              const std::vector<stored_tensor>& tensors,
                              const std::set<std::string>& expected) {
    for (const auto& tensor : tensors)
      if (!expected.contains(tensor.name))
        return fail(ec::corrupt_file, path.string() + ": tensor " + printable(tensor.name) +
                                          " is not in the index's weight_map for this file");
    if (tensors.size() != expected.size())
      return fail(ec::corrupt_file, path.string() + ": holds " + std::to_string(tensors.size()) +
                                        " tensors, the index says " +
                                        std::to_string(expected.size()) + "; download it again");
    return {};
  }

  result<void> add_all() {
    if (std::filesystem::exists(directory / "model.safetensors.index.json")) {
      TROUPE_TRY(auto index, read_index(directory / "model.safetensors.index.json"));
      for (const auto& [name, tensors] : index) TROUPE_CHECK(add_file(name, &tensors));
      return {};
    }
    return add_file("model.safetensors", nullptr);
  }
};

// A tied model's head is its embedding, whatever the file holds besides; one that says it is not
// tied must have a head.
result<void> settle_tying(const json& config, model_source& source) {
  const auto tied = config.value("tie_word_embeddings", json());
  auto head = std::find_if(source.tensors.begin(), source.tensors.end(),
                           [](auto& t) { return t.name == "output.weight"; });
  if (tied == true && head != source.tensors.end()) source.tensors.erase(head);
  if (tied == false && head == source.tensors.end())
    return fail(ec::corrupt_file,
                source.meta->source() +
                    ": the tensor 'lm_head.weight' is missing and config.json says "
                    "'tie_word_embeddings': false");
  return {};
}

}  // namespace

result<model_source> read_hugging_face(const std::filesystem::path& directory) {
  TROUPE_TRY(auto text, read_text_file(directory / "config.json", max_config_bytes));
  TROUPE_TRY(auto config, parse_strict_json(text, (directory / "config.json").string()));
  model_source source;
  source.format = "Hugging Face safetensors";
  source.interleaved_rope = false;
  source.meta = std::make_shared<metadata>(directory.string());
  TROUPE_TRY(const architecture* arch, read_hugging_face_config(config, *source.meta));
  const auto name = std::filesystem::absolute(directory).lexically_normal();
  source.meta->set_string("general.name", name.has_filename()
                                              ? name.filename().string()
                                              : name.parent_path().filename().string());
  TROUPE_CHECK(read_hugging_face_tokenizer(directory, config, *source.meta));
  directory_reader reader{directory, *arch, source};
  TROUPE_CHECK(reader.add_all());
  TROUPE_TRY(const scale_block block, scale_block_of(config, directory.string()));
  TROUPE_CHECK(attach_scales(source, block));
  TROUPE_CHECK(settle_tying(config, source));
  return source;
}

}  // namespace troupe::model
