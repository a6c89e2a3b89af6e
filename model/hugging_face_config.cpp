// Names and defaults: transformers' configuration_llama.py, _mistral, _qwen2, _qwen3 and
// modeling_rope_utils.py.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "model/architecture.hpp"
#include "model/hugging_face.hpp"

namespace troupe::model {

namespace {

using nlohmann::json;

class config_converter {
 public:
  config_converter(const json& config, metadata& into) : config_(config), into_(into) {}

  result<const architecture*> convert() {
    TROUPE_TRY(const architecture* arch, find_class());
    prefix_ = std::string(arch->name) + ".";
    into_.set_string("general.architecture", arch->name);
    TROUPE_CHECK(refuse_variants());
    TROUPE_CHECK(count("num_hidden_layers", "block_count"));
    TROUPE_CHECK(count("max_position_embeddings", "context_length"));
    TROUPE_CHECK(count("hidden_size", "embedding_length"));
    TROUPE_CHECK(count("intermediate_size", "feed_forward_length"));
    TROUPE_CHECK(count("num_attention_heads", "attention.head_count"));
    TROUPE_CHECK(count("num_key_value_heads", "attention.head_count_kv"));
    TROUPE_CHECK(count("head_dim", "attention.key_length"));
    TROUPE_CHECK(count("head_dim", "attention.value_length"));
    // Qwen2 and Qwen3 name a window that is off unless use_sliding_window says otherwise.
    if (arch->name == "llama" || config_.value("use_sliding_window", json()) == true)
      TROUPE_CHECK(count("sliding_window", "attention.sliding_window"));
    TROUPE_CHECK(real(config_, "rms_norm_eps", "attention.layer_norm_rms_epsilon", 1e-6));
    TROUPE_CHECK(rope());
    return arch;
  }

 private:
  tl::unexpected<error> wrong(std::string_view field, std::string_view wanted) const {
    return fail(ec::corrupt_file,
                into_.source() + ": '" + std::string(field) + "' must be " + std::string(wanted));
  }
  tl::unexpected<error> unsupported(std::string what) const {
    return fail(ec::unsupported, into_.source() + ": " + std::move(what));
  }

  result<const architecture*> find_class() const {
    auto classes = config_.find("architectures");
    if (classes == config_.end() || !classes->is_array() || classes->empty() ||
        !(*classes)[0].is_string())
      return wrong("architectures", "an array with the name of a class");
    const auto& name = (*classes)[0].get_ref<const std::string&>();
    if (auto* arch = find_hugging_face_architecture(name)) return arch;
    return unsupported("the class " + printable(name) +
                       " is not one that this build runs: its architectures are " +
                       supported_architectures());
  }

  result<void> refuse_variants() const {
    if (auto act = config_.find("hidden_act"); act != config_.end() && *act != "silu")
      return unsupported("'hidden_act' is not silu, the only activation that this build has");
    auto quantized = config_.find("quantization_config");
    if (quantized != config_.end() && !quantized->is_null() && !is_f8(*quantized))
      return unsupported(
          "the weights are quantized in a way ('quantization_config') that this build does not "
          "read: it reads F8_E4M3 with one scale a row, a tensor or a block; use the original "
          "weights or a GGUF");
    return {};
  }

  // Names a way to E4M3 weights; which scales they have the tensors tell.
  static bool is_f8(const json& quantization) {
    if (!quantization.is_object()) return false;
    const auto method = quantization.value("quant_method", json());
    if (method == "fp8" || method == "fbgemm_fp8") return true;
    if (method == "modelopt") return quantization.value("quant_algo", json()) == "FP8";
    if (method != "compressed-tensors") return false;
    const auto groups = quantization.value("config_groups", json::object());
    return groups.is_object() && !groups.empty() &&
           std::all_of(groups.begin(), groups.end(), [](const json& group) {
             const auto weights = group.is_object() ? group.value("weights", json()) : json();
             return weights.is_object() && weights.value("num_bits", json()) == 8 &&
                    weights.value("type", json()) == "float";
           });
  }

  static bool present(const json& object, std::string_view field) {
    auto found = object.find(field);
    return found != object.end() && !found->is_null();
  }

  result<void> count(std::string_view field, std::string_view key) {
    if (!present(config_, field)) return {};  // read_config names the key if it is needed
    return count_of(*config_.find(field), field, key);
  }
  result<void> count_of(const json& value, std::string_view field, std::string_view key) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > UINT32_MAX)
      return wrong(field, "a count of at most 32 bits");
    into_.set_u32(prefix_ + std::string(key), value.get<std::uint32_t>());
    return {};
  }

  result<void> real(const json& object, std::string_view field, std::string_view key,
                    std::optional<double> fallback) {
    double value = 0;
    if (!present(object, field)) {
      if (!fallback) return {};
      value = *fallback;
    } else if (auto found = object.find(field); found->is_number()) {
      value = found->get<double>();
    } else {
      return wrong(field, "a number");
    }
    into_.set_f32(prefix_ + std::string(key), static_cast<float>(value));
    return {};
  }

  // transformers 5 moved rope_theta and rope_scaling into rope_parameters.
  result<void> rope() {
    const bool joined = present(config_, "rope_parameters");
    const json empty = json::object();
    const json& scaling = joined                             ? *config_.find("rope_parameters")
                          : present(config_, "rope_scaling") ? *config_.find("rope_scaling")
                                                             : empty;
    if (!scaling.is_object())
      return wrong(joined ? "rope_parameters" : "rope_scaling", "an object");
    TROUPE_CHECK(real(present(scaling, "rope_theta") ? scaling : config_, "rope_theta",
                      "rope.freq_base", 10000.0));
    if (auto part = config_.find("partial_rotary_factor");
        part != config_.end() && !part->is_null() && *part != 1.0)
      return unsupported("'partial_rotary_factor' is not 1");
    auto kind = scaling.find("rope_type");
    if (kind == scaling.end()) kind = scaling.find("type");
    if (kind == scaling.end() || *kind == "default") return {};
    if (!kind->is_string()) return wrong("rope_type", "a string");
    into_.set_string(prefix_ + "rope.scaling.type", kind->get_ref<const std::string&>());
    TROUPE_CHECK(real(scaling, "factor", "rope.scaling.factor", std::nullopt));
    TROUPE_CHECK(real(scaling, "low_freq_factor", "rope.scaling.low_freq_factor", std::nullopt));
    TROUPE_CHECK(real(scaling, "high_freq_factor", "rope.scaling.high_freq_factor", std::nullopt));
    TROUPE_CHECK(real(scaling, "beta_fast", "rope.scaling.yarn_beta_fast", std::nullopt));
    TROUPE_CHECK(real(scaling, "beta_slow", "rope.scaling.yarn_beta_slow", std::nullopt));
    TROUPE_CHECK(real(scaling, "attention_factor", "rope.scaling.attention_factor", std::nullopt));
    for (std::string_view field : {"mscale", "mscale_all_dim", "long_factor", "short_factor"})
      if (present(scaling, field))
        return unsupported("rope scaling with '" + std::string(field) + "'");
    if (present(scaling, "original_max_position_embeddings"))
      TROUPE_CHECK(count_of(*scaling.find("original_max_position_embeddings"),
                            "original_max_position_embeddings",
                            "rope.scaling.original_context_length"));
    return {};
  }

  const json& config_;
  metadata& into_;
  std::string prefix_;
};

}  // namespace

result<const architecture*> read_hugging_face_config(const json& config, metadata& into) {
  if (!config.is_object())
    return fail(ec::corrupt_file, into.source() + ": config.json is no JSON object");
  return config_converter(config, into).convert();
}

result<scale_block> scale_block_of(const json& config, const std::string& source) {
  const auto quantization = config.value("quantization_config", json());
  if (!quantization.is_object()) return scale_block{};
  // transformers' and DeepSeek's, or of compressed-tensors' groups, which must agree.
  std::set<json> sizes;
  if (auto size = quantization.value("weight_block_size", json()); !size.is_null())
    sizes.insert(size);
  const auto groups = quantization.value("config_groups", json::object());
  for (const json& group : groups.is_object() ? groups : json::object()) {
    const auto weights = group.is_object() ? group.value("weights", json()) : json();
    const bool by_blocks = weights.is_object() && weights.value("strategy", json()) == "block";
    sizes.insert(by_blocks ? weights.value("block_structure", json("none")) : json());
  }
  if (sizes.size() > 1)
    return fail(ec::unsupported,
                source + ": scales of E4M3 weights belong to blocks of different sizes");
  if (sizes.empty() || sizes.begin()->is_null()) return scale_block{};
  const json& size = *sizes.begin();
  const auto is_extent = [](const json& e) {
    return e.is_number_unsigned() && e.get<std::uint64_t>() - 1 < UINT32_MAX;
  };
  if (!size.is_array() || size.size() != 2 || !is_extent(size[0]) || !is_extent(size[1]))
    return fail(ec::corrupt_file,
                source + ": 'weight_block_size' must be two counts of at least 1");
  return scale_block{size[0].get<std::uint64_t>(), size[1].get<std::uint64_t>()};
}

}  // namespace troupe::model
