// GGUF files that lie. One case for each shape of a published vulnerability or reported crash of
// GGUF readers (notes/users.md, C3), and for each rule of the format: refused, with an error that
// names the field.
#include <gtest/gtest.h>

#include <functional>

#include "model/architecture.hpp"
#include "model/gguf.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {
namespace {

using model::value_type;

// As open_model does, short of mapping a file.
result<void> load(std::span<const std::byte> bytes) {
  TROUPE_TRY(auto parsed, model::parse_gguf(bytes, "hostile.gguf"));
  model::model_source source;
  source.meta = parsed.meta;
  source.tensors = std::move(parsed.tensors);
  TROUPE_TRY(const model::architecture* arch, model::architecture_of(source));
  TROUPE_TRY(auto config, model::read_config(*arch, source));
  TROUPE_CHECK(model::bind_weights(*arch, config, source));
  return {};
}

struct hostile {
  const char* name;
  ec code;
  const char* says;  // part of the error's detail
  std::function<void(gguf_writer&)> damage;
  std::set<std::string, std::less<>> without = {};
};

std::ostream& operator<<(std::ostream& out, const hostile& h) {
  return out << h.name;
}

class hostile_gguf : public ::testing::TestWithParam<hostile> {};

TEST_P(hostile_gguf, is_refused_with_the_field_named) {
  auto file = tiny_gguf({}, GetParam().without);
  GetParam().damage(file);
  const auto bytes = file.finish();
  auto loaded = load(bytes);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, GetParam().code) << to_string(loaded.error());
  EXPECT_NE(loaded.error().detail.find("hostile.gguf: "), std::string::npos)
      << loaded.error().detail;
  EXPECT_NE(loaded.error().detail.find(GetParam().says), std::string::npos)
      << loaded.error().detail;
}

constexpr auto bad = ec::corrupt_file;
constexpr auto nope = ec::unsupported;
const std::uint64_t huge = ~std::uint64_t{0};

// Claims of the header.
const std::vector<hostile> header_cases = {
    {"key_count_huge_CVE_2024_23605", bad, "key count", [](auto& f) { f.extra_keys = huge / 2; }},
    {"key_count_all_ones", bad, "key count", [](auto& f) { f.extra_keys = huge - f.key_count; }},
    {"key_count_one_too_many", bad, "", [](auto& f) { f.extra_keys = 1; }},
    {"tensor_count_huge_CVE_2024_21836", bad, "tensor count",
     [](auto& f) { f.extra_tensors = 1ull << 60; }},
    {"tensor_count_over_limit", bad, "more than the limit of 65536",
     [](auto& f) { f.extra_tensors = 100'000; }},
    {"version_1", nope, "version 1", [](auto& f) { f.version = 1; }},
    {"version_4", nope, "version 4", [](auto& f) { f.version = 4; }},
    {"version_0", nope, "version 0", [](auto& f) { f.version = 0; }},
    {"big_endian", nope, "big-endian", [](auto& f) { f.version = 0x03000000; }},
};

// Keys and values.
const std::vector<hostile> key_cases = {
    {"string_longer_than_file_CVE_2024_21825", bad, "'x.long'",
     [](auto& f) { f.key("x.long", value_type::string).put(std::uint64_t{1'000'000}); }},
    {"string_length_wraps_CVE_2024_23496", bad, "'x.long'",
     [](auto& f) { f.key("x.long", value_type::string).put(huge); }},
    {"key_length_wraps", bad, "a key",
     [](auto& f) {
       ++f.key_count;
       f.keys.put(huge - 7);
     }},
    {"key_empty", bad, "is empty", [](auto& f) { f.add("", 1u); }},
    {"key_twice", bad, "'general.name' appears twice",
     [](auto& f) { f.add("general.name", "again"); }},
    {"value_type_undefined", bad, "value type 13",
     [](auto& f) { f.key("x.odd", static_cast<value_type>(13)); }},
    {"value_type_huge", bad, "value type 4294967295",
     [](auto& f) { f.key("x.odd", static_cast<value_type>(0xffffffffu)); }},
    {"bool_of_2", bad, "'x.flag'",
     [](auto& f) { f.key("x.flag", value_type::boolean).put(std::uint8_t{2}); }},
    {"array_length_huge_CVE_2025_66959", bad, "'x.list'",
     [](auto& f) { f.key("x.list", value_type::array).put(0u).put(huge); }},
    {"array_product_wraps_CVE_2024_21836", bad, "'x.list'",
     [](auto& f) { f.key("x.list", value_type::array).put(10u).put((huge / 8) + 2); }},
    {"array_of_strings_huge", bad, "'x.list'",
     [](auto& f) { f.key("x.list", value_type::array).put(8u).put(std::uint64_t{1} << 61); }},
    {"array_element_undefined", bad, "element type 77",
     [](auto& f) { f.key("x.list", value_type::array).put(77u).put(std::uint64_t{1}); }},
    {"array_of_arrays", nope, "array of arrays",
     [](auto& f) { f.key("x.list", value_type::array).put(9u).put(std::uint64_t{1}); }},
    {"alignment_zero", bad, "general.alignment is 0",
     [](auto& f) { f.add("general.alignment", 0u); }},
    {"alignment_not_a_power_of_two", bad, "general.alignment is 33",
     [](auto& f) { f.add("general.alignment", 33u); }},
    {"alignment_0x80000000", bad, "general.alignment is 2147483648",
     [](auto& f) { f.add("general.alignment", 0x80000000u); }},
    {"alignment_of_wrong_kind", bad, "'general.alignment' (string)",
     [](auto& f) { f.add("general.alignment", "32"); }},
};

// Descriptions of tensors.
const std::vector<hostile> tensor_cases = {
    {"no_dimensions", bad, "has 0 dimensions", [](auto& f) { f.tensors[0].dimensions = 0; }},
    {"five_dimensions_CVE_2024_21802", bad, "has 5 dimensions",
     [](auto& f) { f.tensors[0].dimensions = 5; }},
    {"dimensions_huge", bad, "dimensions, not 1 to 4",
     [](auto& f) { f.tensors[0].dimensions = 0x40000000; }},
    {"dimension_zero_CVE_2026_65315", bad, "dimension of 0",
     [](auto& f) { f.tensors[0].shape[1] = 0; }},
    {"product_wraps_CVE_2026_33298", bad, "'token_embd.weight' has dimensions whose product",
     [](auto& f) {
       f.tensors[0].shape = {std::uint64_t{1} << 33, std::uint64_t{1} << 33};
     }},
    {"product_wraps_to_small", bad, "product exceeds",
     [](auto& f) {
       f.tensors[0].shape = {std::uint64_t{1} << 32, (std::uint64_t{1} << 32) + 1};
     }},
    {"bytes_wrap", bad, "size in bytes",
     [](auto& f) {
       f.tensors[0].shape = {std::uint64_t{1} << 62, 3};
     }},
    {"size_beyond_file_CVE_2026_7482", bad, "ends past the end of the file",
     [](auto& f) { f.tensors[0].shape[1] = 1'000'000; }},
    {"final_sum_wraps_CVE_2026_27940", bad, "'token_embd.weight'",
     [](auto& f) { f.tensors[0].offset = huge - 31; }},
    {"offset_beyond_file", bad, "ends past the end of the file",
     [](auto& f) { f.tensors[0].offset = f.data.size(); }},
    {"offset_misaligned", bad, "not a multiple of the alignment",
     [](auto& f) { f.tensors[1].offset += 4; }},
    {"overlap", bad, "overlap", [](auto& f) { f.tensors[1].offset = f.tensors[0].offset; }},
    {"name_twice", bad, "'token_embd.weight' appears twice",
     [](auto& f) { f.tensors[1].name = f.tensors[0].name; }},
    {"name_empty", bad, "name", [](auto& f) { f.tensors[1].name.clear(); }},
    {"name_long", bad, "more than the limit of 256",
     [](auto& f) { f.tensors[1].name.assign(257, 'a'); }},
    {"type_undefined", nope, "type 5", [](auto& f) { f.tensors[0].type = 5; }},
    {"type_of_safetensors_only", nope, "type 1000", [](auto& f) { f.tensors[0].type = 1000; }},
    {"type_huge", nope, "type 4294967295", [](auto& f) { f.tensors[0].type = 0xffffffffu; }},
    {"type_not_computed_with", nope, "is I32", [](auto& f) { f.tensors[2].type = 26; }},
    {"row_not_whole_blocks", bad, "not whole blocks of 256",
     [](auto& f) { f.tensors[0].type = 12; }},
    {"terminal_escape_in_name", bad, "\\x1b[2J",
     [](auto& f) { f.tensors[1].name = f.tensors[0].name = "\x1b[2J"; }},
};

// Files whose form is right and whose content is not a model.
const std::vector<hostile> model_cases = {
    {"architecture_unknown",
     nope,
     "'mamba'",
     [](auto& f) { f.add("general.architecture", "mamba"); },
     {"general.architecture"}},
    {"architecture_missing",
     bad,
     "'general.architecture' is missing",
     [](auto&) {},
     {"general.architecture"}},
    {"heads_zero_divides",
     bad,
     "head_count is 0",
     [](auto& f) { f.add("llama.attention.head_count", 0u); },
     {"llama.attention.head_count"}},
    {"kv_heads_zero_divides",
     bad,
     "head_count_kv is 0",
     [](auto& f) { f.add("llama.attention.head_count_kv", 0u); },
     {"llama.attention.head_count_kv"}},
    {"kv_heads_not_a_divisor",
     bad,
     "a divisor of the 4",
     [](auto& f) { f.add("llama.attention.head_count_kv", 3u); },
     {"llama.attention.head_count_kv"}},
    {"layers_huge_allocation",
     bad,
     "block_count is 4294967295",
     [](auto& f) { f.add("llama.block_count", ~0u); },
     {"llama.block_count"}},
    {"layers_negative",
     bad,
     "'llama.block_count' (i32)",
     [](auto& f) { f.key("llama.block_count", value_type::i32).put(std::int32_t{-1}); },
     {"llama.block_count"}},
    {"layers_more_than_tensors",
     bad,
     "'blk.2.attn_norm.weight' is missing",
     [](auto& f) { f.add("llama.block_count", 3u); },
     {"llama.block_count"}},
    {"layers_fewer_than_tensors",
     nope,
     "'blk.1.attn_norm.weight' has no place",
     [](auto& f) { f.add("llama.block_count", 1u); },
     {"llama.block_count"}},
    {"epsilon_missing",
     bad,
     "layer_norm_rms_epsilon' is missing",
     [](auto&) {},
     {"llama.attention.layer_norm_rms_epsilon"}},
    {"epsilon_nan",
     bad,
     "layer_norm_rms_epsilon",
     [](auto& f) { f.add("llama.attention.layer_norm_rms_epsilon", std::nanf("")); },
     {"llama.attention.layer_norm_rms_epsilon"}},
    {"theta_negative",
     bad,
     "rope.freq_base",
     [](auto& f) { f.add("llama.rope.freq_base", -1.0f); },
     {"llama.rope.freq_base"}},
    {"rope_dimensions_odd",
     bad,
     "rope.dimension_count is 15",
     [](auto& f) { f.add("llama.rope.dimension_count", 15u); },
     {"llama.rope.dimension_count"}},
    {"rope_dimensions_beyond_head",
     bad,
     "rope.dimension_count is 18",
     [](auto& f) { f.add("llama.rope.dimension_count", 18u); },
     {"llama.rope.dimension_count"}},
    {"rope_scaling_unknown", nope, "'longrope'",
     [](auto& f) { f.add("llama.rope.scaling.type", "longrope"); }},
    {"experts", nope, "llama.expert_count", [](auto& f) { f.add("llama.expert_count", 8u); }},
    {"embedding_missing",
     bad,
     "'token_embd.weight' is missing",
     [](auto&) {},
     {"token_embd.weight"}},
    {"norm_missing", bad, "'output_norm.weight' is missing", [](auto&) {}, {"output_norm.weight"}},
    {"weight_misshapen", bad, "'blk.0.attn_q.weight' has shape [32][128]",
     [](auto& f) {
       for (auto& t : f.tensors)
         if (t.name == "blk.0.attn_q.weight") t.shape = {128, 32};
     }},
    {"weight_without_a_place", nope, "'blk.0.attn_q.bias2' has no place",
     [](auto& f) {
       f.add_tensor("blk.0.attn_q.bias2", model::tensor_type::f32, {8}, std::vector<std::byte>(32));
     }},
    {"vocabulary_larger_than_embedding_CVE_2025_49847",
     bad,
     "more than the 264 rows",
     [](auto& f) { f.add("tokenizer.ggml.tokens", std::vector<std::string>(265, "a")); },
     {"tokenizer.ggml.tokens"}},
    {"rope_freqs_zero", bad, "rope_freqs.weight",
     [](auto& f) {
       f.add_tensor("rope_freqs.weight", model::tensor_type::f32, {8}, std::vector<std::byte>(32));
     }},
    {"rope_freqs_short", bad, "rope_freqs.weight",
     [](auto& f) {
       f.add_tensor("rope_freqs.weight", model::tensor_type::f32, {4}, std::vector<std::byte>(16));
     }},
};

std::string case_name(const ::testing::TestParamInfo<hostile>& about) {
  return about.param.name;
}
INSTANTIATE_TEST_SUITE_P(header, hostile_gguf, ::testing::ValuesIn(header_cases), case_name);
INSTANTIATE_TEST_SUITE_P(key, hostile_gguf, ::testing::ValuesIn(key_cases), case_name);
INSTANTIATE_TEST_SUITE_P(tensor, hostile_gguf, ::testing::ValuesIn(tensor_cases), case_name);
INSTANTIATE_TEST_SUITE_P(model, hostile_gguf, ::testing::ValuesIn(model_cases), case_name);

TEST(hostile_gguf_bytes, every_truncation_is_refused) {
  const auto bytes = tiny_gguf().finish();
  ASSERT_TRUE(load(bytes));
  const auto whole = model::parse_gguf(bytes, "whole").value();
  const auto header = static_cast<std::size_t>(whole.tensors[0].data.data() - bytes.data());
  // Each byte of the header, then each tensor's last byte.
  for (std::size_t size = 0; size <= header; ++size)
    ASSERT_FALSE(load(std::span(bytes).first(size))) << size << " of " << bytes.size() << " bytes";
  for (const auto& t : whole.tensors) {
    const auto size = static_cast<std::size_t>(t.data.data() + t.data.size() - bytes.data()) - 1;
    ASSERT_FALSE(load(std::span(bytes).first(size))) << t.name;
  }
}

TEST(hostile_gguf_bytes, any_changed_byte_of_the_header_is_survived) {
  auto bytes = tiny_gguf().finish();
  const auto header = static_cast<std::size_t>(
      model::parse_gguf(bytes, "whole").value().tensors[0].data.data() - bytes.data());
  std::size_t refused = 0;
  for (std::size_t at = 0; at < header; ++at)
    for (int flip : {0x01, 0x80, 0xff}) {
      bytes[at] ^= static_cast<std::byte>(flip);
      refused += !load(bytes);  // either way is fine: names and texts may be anything
      bytes[at] ^= static_cast<std::byte>(flip);
    }
  EXPECT_GT(refused, header / 4);
  EXPECT_TRUE(load(bytes));
}

}  // namespace
}  // namespace troupe::testing
