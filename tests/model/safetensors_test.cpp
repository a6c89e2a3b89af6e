// Safetensors files and Hugging Face directories: right ones, and ones that lie.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/model.hpp"
#include "model/safetensors.hpp"
#include "tests/model/tiny_safetensors.hpp"

namespace troupe::testing {
namespace {

using model::open_model;
using nlohmann::json;

// The error of opening; of no code when it opens after all.
error refusal(const std::filesystem::path& path) {
  auto opened = open_model(path);
  return opened ? error{ec::none, "opened"} : opened.error();
}

class tiny_directories : public ::testing::TestWithParam<std::string> {};

TEST_P(tiny_directories, give_the_weights_of_the_gguf_without_interleaving) {
  temporary_directory dir;
  for (auto type : {model::tensor_type::f32, model::tensor_type::f16, model::tensor_type::bf16}) {
    const tiny_model m{.architecture = GetParam(), .type = type, .tied = false};
    write_tiny_hugging_face(dir / "hf", m);
    write_tiny_gguf(dir / "tiny.gguf", m);
    auto hf = open_model(dir / "hf"), gguf = open_model(dir / "tiny.gguf");
    ASSERT_TRUE(hf) << to_string(hf.error());
    ASSERT_TRUE(gguf) << to_string(gguf.error());
    EXPECT_FALSE((*hf)->config.rope.interleaved);
    EXPECT_EQ((*hf)->config.name, "hf");
    EXPECT_EQ((*hf)->config.head_dim, (*gguf)->config.head_dim);
    EXPECT_EQ((*hf)->config.rms_norm_eps, (*gguf)->config.rms_norm_eps);
    EXPECT_EQ((*hf)->config.rope.theta, (*gguf)->config.rope.theta);
    EXPECT_EQ((*hf)->meta->get<std::uint32_t>("tokenizer.ggml.eos_token_id").value(), 2u);
    auto same = [](const model::tensor& a, const model::tensor& b) {
      return a.rows == b.rows && a.columns == b.columns && a.type == b.type &&
             std::ranges::equal(a.data, b.data);
    };
    EXPECT_TRUE(same((*hf)->weights.embed_tokens, (*gguf)->weights.embed_tokens));
    EXPECT_TRUE(same((*hf)->weights.lm_head, (*gguf)->weights.lm_head));
    for (std::size_t i = 0; i < 2; ++i) {
      const auto &a = (*hf)->weights.layers[i], &b = (*gguf)->weights.layers[i];
      EXPECT_TRUE(same(a.q_proj, b.q_proj));
      EXPECT_TRUE(same(a.k_bias, b.k_bias));
      EXPECT_TRUE(same(a.q_norm, b.q_norm));
      EXPECT_TRUE(same(a.down_proj, b.down_proj));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(safetensors, tiny_directories,
                         ::testing::Values("llama", "qwen2", "qwen3"));

// The tiny model with linear layers in E4M3. add_scales(file, name of a tensor, its shape): what lies beside it.
using scale_writer =
    std::function<void(safetensors_writer&, const std::string&, const std::vector<std::uint64_t>&)>;
void write_e4m3(const std::filesystem::path& directory, const json& quantization,
                const scale_writer& add_scales) {
  const tiny_model m{.type = model::tensor_type::f32, .tied = false};
  write_tiny_hugging_face(directory, m);
  const safetensors_writer plain = tiny_safetensors(m);
  safetensors_writer out;
  test_random random{8};
  for (const auto& [name, entry] : plain.header.items()) {
    const auto shape = entry["shape"].get<std::vector<std::uint64_t>>();
    const auto begin = entry["data_offsets"][0].get<std::size_t>();
    if (!name.ends_with("_proj.weight")) {
      out.add(name, "F32", shape,
              std::span(plain.data)
                  .subspan(begin, entry["data_offsets"][1].get<std::size_t>() - begin));
      continue;
    }
    out.add(name, "F8_E4M3", shape,
            random_weights(model::tensor_type::f8_e4m3, shape[0], shape[1], 1, random));
    add_scales(out, name, shape);
  }
  write_file(directory / "model.safetensors", out.finish());
  auto config = tiny_config({.tied = false});
  config["quantization_config"] = quantization;
  write_file(directory / "config.json", config.dump());
}

// Layer 0 with a scale a row, the others with one of all, as compressed-tensors and AutoFP8 write them. change: of a scale's
// shape.
void write_f8_directory(
    const std::filesystem::path& directory,
    const std::function<void(std::string&, std::vector<std::uint64_t>&)>& change = {},
    const json& quantization = {
        {"quant_method", "compressed-tensors"},
        {"config_groups", {{"group_0", {{"weights", {{"num_bits", 8}, {"type", "float"}}}}}}}}) {
  write_e4m3(directory, quantization,
             [&](safetensors_writer& out, const std::string& name,
                 const std::vector<std::uint64_t>& shape) {
               const bool by_row = name.find(".layers.0.") != std::string::npos;
               std::string scale = name + "_scale";
               std::vector<std::uint64_t> extents = {shape[0], 1};
               if (!by_row) extents.clear();
               if (change) change(scale, extents);
               std::uint64_t count = 1;
               for (const auto e : extents) count *= e;
               byte_writer scales;
               for (std::uint64_t r = 0; r < count; ++r) {
                 if (by_row)
                   scales.put(static_cast<float>(r + 1) / 1024);
                 else
                   scales.put(std::uint16_t{0x3d00});  // 1/32 in bf16
               }
               out.add(scale, by_row ? "F32" : "BF16", extents, scales.bytes);
               for (const char* of_activations : {"input_scale", "input_scale_ub"})
                 out.add(name.substr(0, name.size() - 6) + of_activations, "F32", {1},
                         std::vector<std::byte>(4));
             });
}

// What E4M3 tells of a byte.
float e4m3(std::byte stored) {
  const auto byte = static_cast<int>(stored);
  const int exponent = byte >> 3 & 15, fraction = byte & 7;
  const double value =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return static_cast<float>((byte & 128) != 0 ? -value : value);
}

class e4m3_files : public ::testing::TestWithParam<json> {};

TEST_P(e4m3_files, have_scales_of_rows_or_of_all) {
  temporary_directory dir;
  write_f8_directory(dir / "hf", {}, GetParam());
  auto opened = open_model(dir / "hf");
  ASSERT_TRUE(opened) << to_string(opened.error());
  for (std::size_t i = 0; i < 2; ++i) {
    const model::tensor& t = (*opened)->weights.layers[i].down_proj;
    ASSERT_EQ(t.type, model::tensor_type::f8_e4m3);
    std::vector<float> row(t.columns);
    for (std::uint64_t r = 0; r < t.rows; ++r) {
      const float scale = i == 0 ? static_cast<float>(r + 1) / 1024 : 1.0f / 32;
      EXPECT_EQ(model::row_scale(t, r), scale);
      model::dequantize_row(t, r, row);
      for (std::uint64_t c = 0; c < t.columns; ++c)
        ASSERT_EQ(row[c], e4m3(t.data[r * t.columns + c]) * scale) << r << " " << c;
    }
  }
  EXPECT_EQ((*opened)->weights.embed_tokens.type, model::tensor_type::f32);
}
INSTANTIATE_TEST_SUITE_P(
    safetensors, e4m3_files,
    ::testing::Values(
        json{{"quant_method", "compressed-tensors"},
             {"config_groups",
              {{"group_0",
                {{"weights", {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}}}}}}}},
        json{{"quant_method", "fp8"}, {"activation_scheme", "static"}},
        json{{"quant_method", "fbgemm_fp8"}, {"activation_scale_ub", 1200.0}},
        json{{"quant_method", "modelopt"}, {"quant_algo", "FP8"}}, json()));

TEST(hugging_face, refuses_scales_that_it_cannot_read) {
  struct wrong {
    const char* says;
    ec code;
    std::function<void(std::string&, std::vector<std::uint64_t>&)> change;
  };
  const wrong cases[] = {
      {"no 'weight_scale'", ec::corrupt_file, [](auto& name, auto&) { name += "_2"; }},
      {"neither one nor one a row", ec::unsupported,
       [](auto&, auto& e) {
         e = {2, 2};
       }},
      {"neither one nor one a row", ec::unsupported,
       [](auto&, auto& e) {
         e = {3, 1};
       }},
  };
  for (const wrong& w : cases) {
    temporary_directory dir;
    write_f8_directory(dir / "hf", w.change);
    const error e = refusal(dir / "hf");
    EXPECT_EQ(e.code, w.code);
    EXPECT_NE(e.detail.find(w.says), std::string::npos) << to_string(e);
  }
}

struct block_files {
  json quantization;
  std::uint64_t rows, columns;  // of a block
  std::string suffix = "_scale";
  bool both = false;  // of suffix and "_scale"
};
float scale_of_block(std::uint64_t index) {
  return static_cast<float>(index % 61 + 1) / 512;
}

void write_blocks(const std::filesystem::path& directory, const block_files& how) {
  write_e4m3(directory, how.quantization,
             [&](safetensors_writer& out, const std::string& name,
                 const std::vector<std::uint64_t>& shape) {
               const std::uint64_t down = (shape[0] + how.rows - 1) / how.rows,
                                   across = (shape[1] + how.columns - 1) / how.columns;
               byte_writer scales;
               for (std::uint64_t i = 0; i < down * across; ++i) scales.put(scale_of_block(i));
               out.add(name + how.suffix, "F32", {down, across}, scales.bytes);
               if (how.both) out.add(name + "_scale", "F32", {down, across}, scales.bytes);
             });
}

json compressed_blocks(const json& size) {
  return {{"quant_method", "compressed-tensors"},
          {"config_groups",
           {{"group_0",
             {{"weights",
               {{"num_bits", 8},
                {"type", "float"},
                {"strategy", "block"},
                {"block_structure", size}}}}}}}};
}

TEST(hugging_face, reads_e4m3_with_scales_of_blocks) {
  const block_files files[] = {
      {{{"quant_method", "fp8"}, {"weight_block_size", {24, 40}}}, 24, 40, "_scale_inv"},
      {compressed_blocks({32, 32}), 32, 32},
      {compressed_blocks({128, 128}), 128, 128},
  };
  for (const block_files& how : files) {
    temporary_directory dir;
    write_blocks(dir / "hf", how);
    auto opened = open_model(dir / "hf");
    ASSERT_TRUE(opened) << to_string(opened.error());
    for (const model::tensor* t :
         {&(*opened)->weights.layers[0].q_proj, &(*opened)->weights.layers[1].down_proj,
          &(*opened)->weights.layers[1].gate_proj}) {
      ASSERT_TRUE(t->scales.by_blocks());
      const std::uint64_t across = (t->columns + how.columns - 1) / how.columns;
      std::vector<float> row(t->columns);
      for (std::uint64_t r = 0; r < t->rows; ++r) {
        model::dequantize_row(*t, r, row);
        for (std::uint64_t c = 0; c < t->columns; ++c) {
          const std::uint64_t block = r / how.rows * across + c / how.columns;
          ASSERT_EQ(row[c], e4m3(t->data[r * t->columns + c]) * scale_of_block(block))
              << t->name << " " << r << " " << c;
        }
      }
    }
  }
}

// The same bytes mean other weights.
TEST(hugging_face, blocks_of_another_size_are_another_model) {
  temporary_directory dir;
  const auto digest_with = [&](std::uint64_t size) {
    write_blocks(dir / "hf",
                 {{{"quant_method", "fp8"}, {"weight_block_size", {size, size}}}, size, size});
    return open_model(dir / "hf").value()->digest;
  };
  // As many blocks of 64 and of 128 rows or columns.
  EXPECT_NE(digest_with(48), digest_with(50));
  EXPECT_EQ(digest_with(48), digest_with(48));
}

TEST(hugging_face, refuses_blocks_that_it_cannot_place) {
  const auto fp8 = [](const json& size) {
    return json{{"quant_method", "fp8"}, {"weight_block_size", size}};
  };
  struct wrong {
    json quantization;
    const char* says;
    ec code;
  };
  auto two_sizes = compressed_blocks({32, 32});
  two_sizes["config_groups"]["group_1"] = compressed_blocks({16, 32})["config_groups"]["group_0"];
  const wrong cases[] = {
      {fp8({128, 128}), "neither one nor one a row", ec::unsupported},
      {fp8({32, 16}), "neither one nor one a row", ec::unsupported},
      {fp8({32}), "two counts", ec::corrupt_file},
      {fp8({0, 32}), "two counts", ec::corrupt_file},
      {fp8({32, -1}), "two counts", ec::corrupt_file},
      {fp8("32x32"), "two counts", ec::corrupt_file},
      {compressed_blocks(nullptr), "neither one nor one a row", ec::unsupported},
      {two_sizes, "different sizes", ec::unsupported},
  };
  temporary_directory twice;
  write_blocks(twice / "hf", {fp8({32, 32}), 32, 32, "_scale_inv", true});
  EXPECT_NE(refusal(twice / "hf").detail.find("as 'weight_scale_inv'"), std::string::npos);
  for (const wrong& w : cases) {
    temporary_directory dir;
    write_blocks(dir / "hf", {w.quantization, 32, 32});
    const error e = refusal(dir / "hf");
    EXPECT_EQ(e.code, w.code) << w.quantization << to_string(e);
    EXPECT_NE(e.detail.find(w.says), std::string::npos) << w.quantization << to_string(e);
  }
}

TEST(hugging_face, shards_with_an_index_give_the_model_of_one_file) {
  temporary_directory dir;
  write_tiny_hugging_face(dir / "one");
  std::filesystem::create_directories(dir / "two");
  write_file(dir / "two/config.json", tiny_config().dump());
  const auto whole = tiny_safetensors();
  safetensors_writer shards[2];
  json map = json::object();
  std::size_t i = 0;
  for (const auto& [name, entry] : whole.header.items()) {
    const auto begin = entry["data_offsets"][0].get<std::size_t>(),
               end = entry["data_offsets"][1].get<std::size_t>();
    shards[i % 2].add(name, entry["dtype"], entry["shape"],
                      std::span(whole.data).subspan(begin, end - begin));
    map[name] = i++ % 2 ? "b.safetensors" : "a.safetensors";
  }
  write_file(dir / "two/a.safetensors", shards[0].finish());
  write_file(dir / "two/b.safetensors", shards[1].finish());
  const auto index = dir / "two/model.safetensors.index.json";
  write_file(index, json{{"metadata", json::object()}, {"weight_map", map}}.dump());
  auto one = open_model(dir / "one"), two = open_model(dir / "two");
  ASSERT_TRUE(one) << to_string(one.error());
  ASSERT_TRUE(two) << to_string(two.error());
  EXPECT_EQ((*one)->digest, (*two)->digest);

  auto with = [&](const std::string& file) {
    auto broken = map;
    broken["model.norm.weight"] = file;
    write_file(index, json{{"weight_map", broken}}.dump());
    return refusal(dir / "two").detail;
  };
  std::filesystem::copy_file(dir / "two/a.safetensors", dir / "outside.safetensors");
  for (const char* outside :
       {"../outside.safetensors", "/etc/passwd", "..", "sub/a.safetensors", ".safetensors", ""})
    EXPECT_NE(with(outside).find("not the plain name"), std::string::npos) << outside;
  // The index claims for one file what is in the other, and a file that does not exist.
  for (const char* other : {"a.safetensors", "b.safetensors", "missing.safetensors"}) {
    if (map["model.norm.weight"] == other) continue;
    EXPECT_NE(with(other).find("the index"), std::string::npos) << other;
  }
  write_file(index, std::string(R"({"weight_map":{"a":"missing.safetensors"}})"));
  EXPECT_EQ(refusal(dir / "two").code, ec::not_found);
  write_file(index, std::string(R"({"weight_map":{"a":"a.safetensors","a":"b.safetensors"}})"));
  EXPECT_NE(refusal(dir / "two").detail.find("appears twice"), std::string::npos);
}

struct hostile {
  const char* name;
  const char* says;
  std::function<std::vector<std::byte>(safetensors_writer)> make;
};
std::ostream& operator<<(std::ostream& out, const hostile& h) {
  return out << h.name;
}

auto with_header(std::string text) {
  return [text](const safetensors_writer& f) { return f.finish(text); };
}
auto with_first(std::function<void(nlohmann::ordered_json&)> change) {
  return [change](safetensors_writer f) {
    change(f.header["model.embed_tokens.weight"]);
    return f.finish();
  };
}

class hostile_safetensors : public ::testing::TestWithParam<hostile> {};

TEST_P(hostile_safetensors, is_refused_with_the_field_named) {
  const auto bytes = GetParam().make(tiny_safetensors());
  auto parsed = model::parse_safetensors(bytes, "hostile.safetensors");
  ASSERT_FALSE(parsed);
  EXPECT_NE(parsed.error().detail.find(GetParam().says), std::string::npos)
      << parsed.error().detail;
}

const std::vector<hostile> hostile_files = {
    {"empty", "the header's length", [](auto) { return std::vector<std::byte>(); }},
    {"header_over_100_MB", "100 MB",
     [](auto) { return byte_writer().put(std::uint64_t{100'000'001}).bytes; }},
    {"header_length_wraps", "100 MB",
     [](auto) { return byte_writer().put(~std::uint64_t{0}).bytes; }},
    {"header_beyond_file", "the header",
     [](auto) { return byte_writer().put(std::uint64_t{500}).bytes; }},
    {"header_begins_with_space", "begin with '{'", with_header(" {}")},
    {"header_is_a_list", "begin with '{'", with_header("[]")},
    {"header_unfinished", "not valid JSON", with_header("{\"a\":")},
    {"header_with_rest", "not valid JSON", with_header("{} {}")},
    {"header_not_utf8", "not valid JSON", with_header("{\"\xff\":1}")},
    {"nothing_described", "belong to no tensor", with_header("{}")},
    {"deep_nesting", "nests deeper", with_header("{\"a\":" + std::string(100'000, '['))},
    {"tensor_twice", "'a' appears twice",
     with_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                 R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})")},
    hostile{"field_twice", "'dtype' appears twice",
            with_header(R"({"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}})")},
    {"entry_no_object", "exactly 'dtype'", with_header(R"({"a":1})")},
    {"field_missing", "exactly 'dtype'", with_first([](auto& t) { t.erase("shape"); })},
    {"field_unknown", "exactly 'dtype'", with_first([](auto& t) { t["stride"] = 1; })},
    {"dtype_unknown", "dtype 'F8_E5M2'", with_first([](auto& t) { t["dtype"] = "F8_E5M2"; })},
    {"dtype_number", "'dtype' that is no string", with_first([](auto& t) { t["dtype"] = 3; })},
    {"shape_negative", "no 64-bit count", with_first([](auto& t) {
       t["shape"] = {-1, 64};
     })},
    {"shape_fraction", "no 64-bit count", with_first([](auto& t) {
       t["shape"] = {264.0, 64};
     })},
    {"shape_beyond_64_bits", "no 64-bit count", with_first([](auto& t) {
       t["shape"] = {1e30, 64};
     })},
    {"shape_zero", "dimension of 0", with_first([](auto& t) {
       t["shape"] = {0, 64};
     })},
    {"shape_five", "at most 4", with_first([](auto& t) {
       t["shape"] = {1, 1, 1, 264, 64};
     })},
    {"shape_product_wraps", "product exceeds", with_first([](auto& t) {
       t["shape"] = {1ull << 33, 1ull << 33};
     })},
    {"bytes_wrap", "size in bytes", with_first([](auto& t) {
       t["shape"] = {3, 1ull << 62};
     })},
    {"offsets_reversed", "data_offsets", with_first([](auto& t) {
       t["data_offsets"] = {67584, 0};
     })},
    {"offsets_three", "two 64-bit counts", with_first([](auto& t) {
       t["data_offsets"] = {0, 1, 2};
     })},
    {"offsets_not_the_shape", "not the 67584 bytes", with_first([](auto& t) {
       t["data_offsets"] = {0, 67580};
     })},
    {"offsets_beyond_file", "leaves a gap", with_first([](auto& t) {
       t["data_offsets"] = {1ull << 40, (1ull << 40) + 67584};
     })},
    {"overlap", "overlaps",
     [](auto f) {
       f.header["model.norm.weight"]["data_offsets"] = {67580, 67580 + 256};
       return f.finish();
     }},
    {"truncated", "past the end of the file",
     [](auto f) {
       f.data.pop_back();
       return f.finish();
     }},
    {"rest_after_the_last", "belong to no tensor", [](auto f) {
       f.data.resize(f.data.size() + 1);
       return f.finish();
     }}};

INSTANTIATE_TEST_SUITE_P(safetensors, hostile_safetensors, ::testing::ValuesIn(hostile_files),
                         [](const auto& about) { return std::string(about.param.name); });

struct bad_config {
  const char* field;
  json value;
  ec code;
  const char* says;
};

TEST(hugging_face, refuses_configs_that_it_cannot_run) {
  temporary_directory dir;
  write_tiny_hugging_face(dir / "hf");
  const bad_config cases[] = {
      {"architectures", json::array({"MambaForCausalLM"}), ec::unsupported, "'MambaForCausalLM'"},
      {"architectures", json::array(), ec::corrupt_file, "'architectures'"},
      {"architectures", "LlamaForCausalLM", ec::corrupt_file, "'architectures'"},
      {"hidden_act", "gelu", ec::unsupported, "hidden_act"},
      {"quantization_config", {{"quant_method", "awq"}}, ec::unsupported, "quantization_config"},
      {"quantization_config",
       {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}},
       ec::unsupported,
       "quantization_config"},
      {"num_hidden_layers", -1, ec::corrupt_file, "num_hidden_layers"},
      {"num_hidden_layers", nullptr, ec::corrupt_file, "block_count"},
      {"num_attention_heads", 0, ec::corrupt_file, "head_count"},
      {"hidden_size", 1ull << 40, ec::corrupt_file, "hidden_size"},
      {"hidden_size", "64", ec::corrupt_file, "hidden_size"},
      {"rms_norm_eps", "small", ec::corrupt_file, "rms_norm_eps"},
      {"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}, ec::unsupported, "'dynamic'"},
      {"rope_scaling", 7, ec::corrupt_file, "rope_scaling"},
      {"partial_rotary_factor", 0.5, ec::unsupported, "partial_rotary_factor"},
  };
  for (const auto& one : cases) {
    auto config = tiny_config();
    config[one.field] = one.value;
    write_file(dir / "hf/config.json", config.dump());
    auto opened = open_model(dir / "hf");
    ASSERT_FALSE(opened) << one.field << " " << one.value;
    EXPECT_EQ(opened.error().code, one.code) << to_string(opened.error());
    EXPECT_NE(opened.error().detail.find(one.says), std::string::npos) << opened.error().detail;
  }
  for (const char* text : {"", "null", "[1]", "{\"a\":1,\"a\":2}"}) {
    write_file(dir / "hf/config.json", std::string(text));
    EXPECT_EQ(refusal(dir / "hf").code, ec::corrupt_file) << text;
  }
  EXPECT_EQ(refusal(dir.path()).code, ec::not_found);
}

TEST(hugging_face, takes_the_chat_template_and_ends_from_its_files) {
  temporary_directory dir;
  write_tiny_hugging_face(dir / "hf");
  write_file(
      dir / "hf/tokenizer_config.json",
      std::string(
          R"({"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}],)"
          R"("add_bos_token":true})"));
  write_file(dir / "hf/generation_config.json", std::string(R"({"eos_token_id":[2,0]})"));
  write_file(dir / "hf/tokenizer.json", std::string("{}"));
  auto opened = open_model(dir / "hf");
  ASSERT_TRUE(opened) << to_string(opened.error());
  const auto& meta = *(*opened)->meta;
  EXPECT_EQ(meta.get<std::string>("tokenizer.chat_template").value(), "D");
  EXPECT_TRUE(meta.get<bool>("tokenizer.ggml.add_bos_token").value());
  EXPECT_EQ(meta.get<std::string>(model::metadata_keys::hf_tokenizer_json).value(), "{}");
  EXPECT_EQ(meta.numbers<std::uint32_t>(model::metadata_keys::hf_eos_token_ids).value(),
            (std::vector<std::uint32_t>{2, 0}));
  write_file(dir / "hf/chat_template.jinja", std::string("J"));
  EXPECT_EQ(
      open_model(dir / "hf").value()->meta->get<std::string>("tokenizer.chat_template").value(),
      "J");
}

TEST(hugging_face, tying_follows_the_config) {
  temporary_directory dir;
  write_tiny_hugging_face(dir / "hf", {.tied = false});
  auto config = tiny_config({.tied = true});
  write_file(dir / "hf/config.json", config.dump());  // tied, and the file holds a head besides
  EXPECT_TRUE(open_model(dir / "hf").value()->config.tie_word_embeddings);
  write_tiny_hugging_face(dir / "hf", {.tied = true});
  config["tie_word_embeddings"] = false;
  write_file(dir / "hf/config.json", config.dump());
  EXPECT_NE(refusal(dir / "hf").detail.find("lm_head.weight"), std::string::npos);
}

}  // namespace
}  // namespace troupe::testing
