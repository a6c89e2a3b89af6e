// Which tokens a draft's output keeps.
#include "api/vocabulary_choice.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "model/model.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::api {
namespace {

TEST(vocabulary_choice, special_tokens_then_the_texts_then_the_first) {
  testing::temporary_directory dir;
  testing::write_tiny_gguf(dir / "tiny.gguf", {});
  const auto m = model::open_model(dir / "tiny.gguf");
  ASSERT_TRUE(m);
  const auto t = model::tokenizer::make(**m).value();
  const auto ids = t->encode("zzzzzyyy", false);
  const token_id z = ids.front(), y = ids.back();
  ASSERT_NE(z, y);
  std::vector<token_id> special;
  for (token_id id = 0; id < t->vocab_size(); ++id)
    if (t->is_special(id)) special.push_back(id);
  for (const token_id id : t->end_of_generation())
    if (std::find(special.begin(), special.end(), id) == special.end()) special.push_back(id);
  const auto has = [](const std::vector<token_id>& all, token_id id) {
    return std::binary_search(all.begin(), all.end(), id);
  };
  const auto few = choose_vocabulary(*t, special.size() + 1, {"zzzzz", "yyy"}).value();
  EXPECT_EQ(few.size(), special.size() + 1);
  EXPECT_TRUE(std::is_sorted(few.begin(), few.end()));
  for (const token_id id : special) EXPECT_TRUE(has(few, id)) << id;
  EXPECT_TRUE(has(few, z) && !has(few, y));
  EXPECT_TRUE(has(choose_vocabulary(*t, special.size() + 2, {"zzzzz", "yyy"}).value(), y));
  const auto first = choose_vocabulary(*t, 40, {}).value();
  EXPECT_FALSE(has(first, z));
  EXPECT_EQ(choose_vocabulary(*t, t->vocab_size(), {}).value().size(), t->vocab_size());
  for (const std::size_t bad : {special.size() - 1, t->vocab_size() + 1})
    EXPECT_EQ(choose_vocabulary(*t, bad, {}).error().code, ec::invalid_argument);
}

}  // namespace
}  // namespace troupe::api
