// Descriptions of model files, runnable and not.
#include "model/inspect.hpp"

#include <gtest/gtest.h>

#include "tests/model/default_model.hpp"
#include "tests/model/tiny_safetensors.hpp"

namespace troupe::testing {
namespace {

TEST(inspect, tells_of_the_default_model) {
  auto about = model::inspect(default_model());
  ASSERT_TRUE(about) << to_string(about.error());
  EXPECT_TRUE(about->runnable()) << about->obstacle;
  EXPECT_EQ(about->format, "GGUF v3");
  EXPECT_EQ(about->architecture, "llama");
  EXPECT_EQ(about->parameters, 134'515'008u);
  EXPECT_EQ(about->file_bytes, 98'362'432u);
  EXPECT_EQ(about->files, 1u);
  ASSERT_EQ(about->types.size(), 3u);
  EXPECT_EQ(about->types[0].type, "Q4_1");
  EXPECT_EQ(about->types[0].tensors, 210u);
  EXPECT_EQ(about->types[1].type, "Q8_0");
  EXPECT_EQ(about->types[2].tensors, 61u);
  EXPECT_EQ(about->vocabulary, 49152u);
  EXPECT_EQ(about->bos->text, "<|im_start|>");
  EXPECT_EQ(about->eos->id, 2u);
  EXPECT_TRUE(about->has_chat_template);
  EXPECT_EQ(about->kv_bytes_per_token, 23'040u);
  EXPECT_EQ(about->config->max_position_embeddings, 8192u);
}

TEST(inspect, says_why_a_model_cannot_run) {
  temporary_directory dir;
  auto foreign = tiny_gguf({}, {"general.architecture"});
  foreign.add("general.architecture", "mamba");
  write_file(dir / "foreign.gguf", foreign.finish());
  auto about = model::inspect(dir / "foreign.gguf");
  ASSERT_TRUE(about) << to_string(about.error());
  EXPECT_FALSE(about->runnable());
  EXPECT_EQ(about->architecture, "mamba");
  EXPECT_NE(about->obstacle.find("'mamba'"), std::string::npos) << about->obstacle;
  EXPECT_FALSE(about->config);
  EXPECT_EQ(about->vocabulary, tiny_vocab_size);

  auto unreadable = tiny_gguf({.hidden_size = 256});
  for (auto& t : unreadable.tensors)
    if (t.name == "blk.0.ffn_up.weight") t.type = 10;  // Q2_K: fewer bytes than are there
  write_file(dir / "q2.gguf", unreadable.finish());
  about = model::inspect(dir / "q2.gguf");
  ASSERT_TRUE(about) << to_string(about.error());
  EXPECT_NE(about->obstacle.find("Q2_K"), std::string::npos) << about->obstacle;
  EXPECT_TRUE(about->config);

  write_file(dir / "broken.gguf", std::string("GGUF"));
  EXPECT_FALSE(model::inspect(dir / "broken.gguf"));
}

TEST(inspect, tells_of_a_hugging_face_directory) {
  temporary_directory dir;
  write_tiny_hugging_face(dir / "hf", {.architecture = "qwen3", .type = model::tensor_type::bf16});
  auto about = model::inspect(dir / "hf");
  ASSERT_TRUE(about) << to_string(about.error());
  EXPECT_TRUE(about->runnable()) << about->obstacle;
  EXPECT_EQ(about->format, "Hugging Face safetensors");
  EXPECT_EQ(about->architecture, "qwen3");
  EXPECT_EQ(about->bos->id, 1u);
  EXPECT_FALSE(about->has_chat_template);
}

}  // namespace
}  // namespace troupe::testing
