// Quantizers against the `gguf` Python package and against the dequantizers; models made of models.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "model/byte_cursor.hpp"
#include "model/gguf_write.hpp"
#include "model/model.hpp"
#include "model/quantize.hpp"
#include "model/remake.hpp"
#include "model/source.hpp"
#include "model/trimmed_head.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {
namespace {

using model::tensor_type;

constexpr tensor_type writable[] = {tensor_type::f32,  tensor_type::f16,  tensor_type::bf16,
                                    tensor_type::q8_0, tensor_type::q5_1, tensor_type::q5_0,
                                    tensor_type::q4_1, tensor_type::q4_0};

std::vector<std::byte> quantized(tensor_type type, std::span<const float> row) {
  const auto& about = model::info(type);
  std::vector<std::byte> out(row.size() / about.block_size * about.block_bytes);
  model::quantize_row(type, row, out);
  return out;
}

std::vector<float> dequantized(tensor_type type, std::span<const std::byte> blocks,
                               std::size_t columns) {
  const model::tensor t{"t", type, 1, columns, blocks};
  std::vector<float> out(columns);
  model::dequantize_row(t, 0, out);
  return out;
}

TEST(quantize, equals_the_python_package_bit_for_bit) {
  std::ifstream in(TROUPE_SOURCE_DIR "/tests/model/quantize_reference.bin", std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(in), {}};
  model::byte_cursor cursor(std::as_bytes(std::span(content)), "quantize_reference.bin");
  std::size_t types = 0;
  while (cursor.remaining() > 0) {
    const auto type = static_cast<tensor_type>(cursor.read<std::uint32_t>("type").value());
    const auto rows = cursor.read<std::uint32_t>("rows").value();
    const auto columns = cursor.read<std::uint32_t>("columns").value();
    std::vector<float> values;
    for (std::uint32_t i = 0; i < rows * columns; ++i)
      values.push_back(cursor.read<float>("value").value());
    for (std::uint32_t r = 0; r < rows; ++r) {
      const auto got = quantized(type, std::span(values).subspan(r * columns, columns));
      const auto wanted = cursor.take(got.size(), "blocks").value();
      EXPECT_TRUE(std::equal(got.begin(), got.end(), wanted.begin()))
          << model::info(type).name << " row " << r;
    }
    ++types;
  }
  EXPECT_EQ(types, std::size(writable));
}

// How far a value may lie from what comes back: half a step of the quants, and what half precision takes from the scale.
constexpr double tiny = 0x1p-25;  // half a step of subnormal scales
double bound(tensor_type type, double largest, double range) {
  switch (type) {
    case tensor_type::f32:
      return 0;
    case tensor_type::f16:
      return largest * 0x1p-11 + 0x1p-25;
    case tensor_type::bf16:
      return largest * 0x1p-8;
    case tensor_type::q8_0:
      return largest * (0.5 / 127 + 0x1p-11) + 127 * tiny;
    case tensor_type::q5_1:
      return range * (0.5 / 31 + 0x1p-11) + largest * 0x1p-11 + 32 * tiny;
    case tensor_type::q4_1:
      return range * (0.5 / 15 + 0x1p-11) + largest * 0x1p-11 + 16 * tiny;
    case tensor_type::q5_0:  // the highest quant is one short of the other end
      return largest * (1.0 / 16 + 0x1p-11) + 16 * tiny;
    case tensor_type::q4_0:
      return largest * (1.0 / 8 + 0x1p-11) + 8 * tiny;
    default:
      return -1;
  }
}

TEST(quantize, what_comes_back_is_near) {
  test_random random{5};
  for (const auto type : writable)
    for (const float scale : {1e-3f, 0.05f, 1.0f, 300.0f}) {
      std::vector<float> row(32 * 40);
      for (auto& v : row) v = random.uniform() * scale;
      const auto back = dequantized(type, quantized(type, row), row.size());
      double error = 0, rms = 0;
      for (std::size_t b = 0; b < row.size(); b += 32) {
        const auto [least, most] =
            std::minmax_element(row.begin() + static_cast<std::ptrdiff_t>(b),
                                row.begin() + static_cast<std::ptrdiff_t>(b) + 32);
        const double largest = std::max(std::fabs(*least), std::fabs(*most));
        for (std::size_t i = b; i < b + 32; ++i) {
          error = std::fabs(row[i] - back[i]);
          EXPECT_LE(error, bound(type, largest, *most - *least))
              << model::info(type).name << ": " << row[i] << " became " << back[i];
          rms += error * error;
        }
      }
      rms = std::sqrt(rms / static_cast<double>(row.size())) / scale;
      EXPECT_LT(rms, type == tensor_type::q4_0 || type == tensor_type::q4_1 ? 0.045 : 0.025);
      // What was quantized once is not changed by being quantized again, where the scale is found again.
      if (type == tensor_type::q8_0 || type == tensor_type::f16 || type == tensor_type::bf16) {
        EXPECT_EQ(dequantized(type, quantized(type, back), row.size()), back)
            << model::info(type).name;
      }
    }
}

TEST(quantize, takes_values_that_are_no_numbers) {
  std::vector<float> row(32, 1.0f);
  row[3] = std::numeric_limits<float>::infinity();
  row[4] = std::numeric_limits<float>::quiet_NaN();
  for (const auto type : writable) quantized(type, row);
  EXPECT_TRUE(std::isnan(dequantized(tensor_type::f16, quantized(tensor_type::f16, row), 32)[4]));
  EXPECT_TRUE(std::isinf(dequantized(tensor_type::f16, quantized(tensor_type::f16, row), 32)[3]));
  EXPECT_TRUE(std::isnan(dequantized(tensor_type::bf16, quantized(tensor_type::bf16, row), 32)[4]));
}

struct remake : ::testing::Test {
  void SetUp() override {
    write_tiny_gguf(in, {.type = tensor_type::f32, .num_hidden_layers = 6, .tied = false});
  }
  static void expect_same_metadata(const model::metadata& a, const model::metadata& b,
                                   const std::set<std::string>& but) {
    for (const auto& [key, value] : a.values()) {
      if (but.contains(key)) continue;
      const auto* other = b.find(key);
      ASSERT_NE(other, nullptr) << key;
      EXPECT_EQ(other->type, value.type) << key;
      EXPECT_EQ(other->element, value.element) << key;
      EXPECT_EQ(other->text, value.text) << key;
      EXPECT_TRUE(std::equal(value.bytes.begin(), value.bytes.end(), other->bytes.begin(),
                             other->bytes.end()))
          << key;
      EXPECT_TRUE(std::equal(value.strings.begin(), value.strings.end(), other->strings.begin(),
                             other->strings.end()))
          << key;
    }
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(in.parent_path()), {}));
  }
  temporary_directory dir;
  std::filesystem::path in = dir / "in.gguf", out = dir / "out.gguf";
};

TEST_F(remake, quantizes_matrices_and_keeps_the_rest) {
  for (const auto type : writable) {
    SCOPED_TRACE(model::info(type).name);
    const auto made = model::quantize_model(in, out, {type, tensor_type::q8_0});
    ASSERT_TRUE(made) << to_string(made.error());
    EXPECT_EQ(made->bytes_after, std::filesystem::file_size(out));
    EXPECT_EQ(files(), 2u) << "nothing is left beside it";
    const auto before = model::open_model(in), after = model::open_model(out);
    ASSERT_TRUE(before && after) << to_string(after.error());
    expect_same_metadata(*(*before)->meta, *(*after)->meta,
                         {"general.file_type", "general.quantization_version"});
    const auto& layer = (*after)->weights.layers[3];
    EXPECT_EQ(layer.down_proj.type, type);
    EXPECT_EQ((*after)->weights.embed_tokens.type, tensor_type::q8_0);
    EXPECT_EQ((*after)->weights.lm_head.type, tensor_type::q8_0);
    EXPECT_EQ(layer.ffn_norm.type, tensor_type::f32);
    const auto& source = (*before)->weights.layers[3].down_proj;
    std::vector<float> row(source.columns), expected(source.columns), got(source.columns);
    for (std::uint64_t r = 0; r < source.rows; ++r) {
      dequantize_row(source, r, row);
      expected = dequantized(type, quantized(type, row), row.size());
      dequantize_row(layer.down_proj, r, got);
      ASSERT_EQ(got, expected) << r;
    }
  }
}

TEST_F(remake, requantizes_what_was_quantized) {
  write_tiny_gguf(in, {.type = tensor_type::q4_k, .embedding_type = tensor_type::q6_k});
  ASSERT_TRUE(model::quantize_model(in, out, {tensor_type::q4_0, std::nullopt}));
  const auto after = model::open_model(out);
  ASSERT_TRUE(after) << to_string(after.error());
  EXPECT_EQ((*after)->weights.layers[0].q_proj.type, tensor_type::q4_0);
  EXPECT_EQ((*after)->weights.embed_tokens.type, tensor_type::q6_k);
}

TEST_F(remake, prunes_to_the_named_layers) {
  const auto made = model::prune_model(in, out, {0, 2, 5});
  ASSERT_TRUE(made) << to_string(made.error());
  const auto before = model::open_model(in), after = model::open_model(out);
  ASSERT_TRUE(after) << to_string(after.error());
  EXPECT_EQ((*after)->config.num_hidden_layers, 3u);
  expect_same_metadata(*(*before)->meta, *(*after)->meta, {"llama.block_count", "general.name"});
  EXPECT_NE((*after)->digest, (*before)->digest);
  const std::uint32_t from[] = {0, 2, 5};
  for (std::size_t l = 0; l < 3; ++l) {
    const auto& a = (*before)->weights.layers[from[l]].up_proj.data;
    const auto& b = (*after)->weights.layers[l].up_proj.data;
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << l;
  }
}

TEST_F(remake, trims_the_output_to_some_tokens) {
  for (const bool tied : {true, false}) {
    write_tiny_gguf(in, {.num_hidden_layers = 6, .tied = tied});
    ASSERT_TRUE(model::prune_model(in, out, {0, 1}, {0, 3, 4, 200, 258}));
    const auto before = model::open_model(in), after = model::open_model(out);
    ASSERT_TRUE(after) << to_string(after.error());
    expect_same_metadata(
        *(*before)->meta, *(*after)->meta,
        {"llama.block_count", "general.name", std::string(model::output_tokens_key)});
    const auto& whole = (*before)->weights.lm_head;
    const auto& head = (*after)->weights.lm_head;
    EXPECT_EQ((*after)->weights.embed_tokens.rows, whole.rows);
    ASSERT_EQ(head.rows, 5u);
    const auto tokens = model::output_tokens(*(*after)->meta, whole.rows).value();
    EXPECT_EQ(tokens, (std::vector<token_id>{0, 3, 4, 200, 258}));
    std::vector<float> a(whole.columns), b(whole.columns);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      dequantize_row(whole, tokens[i], a);
      dequantize_row(head, i, b);
      EXPECT_EQ(a, b) << i;
    }
    // What was trimmed can lose layers and be quantized, but not be trimmed again.
    const auto again = dir / "again.gguf";
    ASSERT_TRUE(model::prune_model(out, again, {1}));
    EXPECT_EQ(model::open_model(again).value()->weights.lm_head.rows, 5u);
    ASSERT_TRUE(model::quantize_model(out, again, {std::nullopt, tensor_type::q8_0}));
    EXPECT_EQ(model::open_model(again).value()->weights.lm_head.type, tensor_type::q8_0);
    EXPECT_EQ(model::prune_model(out, again, {1}, {1, 2}).error().code, ec::invalid_argument);
    std::filesystem::remove(again);
  }
}

TEST_F(remake, refuses_tokens_that_are_not_there) {
  write_tiny_gguf(in, {.num_hidden_layers = 6});
  for (const std::vector<std::uint32_t>& bad :
       {std::vector<std::uint32_t>{5, 4}, {4, 4}, {1, 9999}})
    EXPECT_EQ(model::prune_model(in, out, {0}, bad).error().code, ec::invalid_argument);
  EXPECT_EQ(files(), 1u);
  // A file that says so all the same is refused when it is opened.
  const auto source = model::read_source(in);
  std::vector<model::gguf_tensor> tensors;
  for (const auto& t : source->tensors)
    tensors.push_back({t, [&t](const model::gguf_tensor::piece_sink& w) { return w(t.data); }});
  auto head = tensors.front();
  for (auto& t : tensors)
    if (t.entry.name == "token_embd.weight") head = t;
  head.entry.name = "output.weight";
  head.entry.shape[1] = 2;
  head.bytes = [data = head.entry.data, size = *model::stored_bytes(head.entry)](
                   const model::gguf_tensor::piece_sink& w) { return w(data.first(size)); };
  tensors.push_back(head);
  for (const std::vector<std::uint32_t>& list :
       {std::vector<std::uint32_t>{7, 7}, {8, 7}, {1, 9999}, {1, 2, 3}, {}}) {
    model::metadata_changes changes;
    changes.lists[std::string(model::output_tokens_key)] = list;
    ASSERT_TRUE(model::write_gguf(out, *source->meta, changes, tensors));
    EXPECT_EQ(model::open_model(out).error().code, ec::corrupt_file) << list.size();
  }
}

TEST_F(remake, refuses_and_leaves_nothing_behind) {
  EXPECT_EQ(model::prune_model(in, out, {0, 6}).error().code, ec::invalid_argument);
  EXPECT_EQ(model::prune_model(in, out, {2, 1}).error().code, ec::invalid_argument);
  EXPECT_EQ(model::prune_model(in, out, {}).error().code, ec::invalid_argument);
  EXPECT_EQ(model::quantize_model(in.parent_path(), out, {}).error().code, ec::unsupported);
  const auto nowhere = model::prune_model(in, dir / "none/out.gguf", {1});
  EXPECT_EQ(nowhere.error().code, ec::io_error);
  EXPECT_NE(nowhere.error().detail.find("none/out.gguf"), std::string::npos);
  EXPECT_FALSE(model::quantize_model(dir / "absent.gguf", out, {}));
  EXPECT_EQ(files(), 1u);
  // A file that is there is replaced as a whole.
  std::ofstream(out) << "old";
  ASSERT_TRUE(model::prune_model(in, out, {1}));
  EXPECT_TRUE(model::open_model(out));
  EXPECT_EQ(files(), 2u);
}

TEST(layers, are_numbers_and_ranges) {
  using list = std::vector<std::uint32_t>;
  EXPECT_EQ(model::parse_layers("0-2,5,7-8", 9).value(), (list{0, 1, 2, 5, 7, 8}));
  EXPECT_EQ(model::parse_layers("3", 9).value(), (list{3}));
  for (const char* bad :
       {"", "a", "1,", "1-", "-1", "3-2", "1,1", "2,1", "9", "0-9", "1;2", "1 2", "99999999999"})
    EXPECT_EQ(model::parse_layers(bad, 9).error().code, ec::invalid_argument) << bad;
}

}  // namespace
}  // namespace troupe::testing
