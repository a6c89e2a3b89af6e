// The default model itself: equality on a real prompt and the memory that the device promises.
#include "tests/model/default_model.hpp"

#include <algorithm>

#include "model/tokenizer.hpp"
#include "tests/gpu/host_fixture.hpp"

namespace troupe::gpu {
namespace {

class default_model : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = model::open_model(testing::default_model());
    ASSERT_TRUE(opened.has_value()) << to_string(opened.error());
    m = *opened;
    auto t = model::tokenizer::make(*m);
    ASSERT_TRUE(t.has_value());
    tokenizer = *t;
    tokens = tokenizer->encode(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
        false, true);
  }
  std::shared_ptr<const model::loaded_model> m;
  std::shared_ptr<const model::tokenizer> tokenizer;
  std::vector<token_id> tokens;
  std::vector<block_id> blocks = testing::consecutive_blocks(32);
};

TEST_F(default_model, answers_alike_on_every_instruction_set_chunk_and_number_of_threads) {
  testing::host_device first(m, {});
  const auto expected = first.run(tokens, 0, blocks, 2);
  for (const std::string& isa : testing::runnable_isas()) {
    runner_options o;
    o.isa = isa;
    o.num_threads = 3;
    testing::host_device d(m, o);
    d.run(std::span(tokens).first(5), 0, blocks, 0);
    ASSERT_TRUE(testing::same_bits(d.run(std::span(tokens).subspan(5), 5, blocks, 2), expected))
        << isa;
  }
}

TEST_F(default_model, knows_the_capital_of_france) {
  testing::host_device d(m, {});
  std::string answer;
  std::uint32_t position = 0;
  std::vector<token_id> next = tokens;
  for (int k = 0; k < 8; ++k) {
    const auto logits = d.run(next, position, blocks, 1);
    position += static_cast<std::uint32_t>(next.size());
    next = {static_cast<token_id>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    answer += tokenizer->token_bytes(next[0], false);
  }
  EXPECT_EQ(answer, "The capital of France is Paris.");
}

TEST_F(default_model, memory_stays_near_the_size_of_the_file) {
  testing::host_device d(m, {});
  const auto prompt = testing::some_tokens(500, m->config.vocab_size, 1);
  d.run(prompt, 0, blocks, 1);
  EXPECT_LE(static_cast<double>(d.runner->weight_bytes()),
            1.10 * static_cast<double>(m->file_bytes));
}

}  // namespace
}  // namespace troupe::gpu
