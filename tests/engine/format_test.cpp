// Answers of a given form out of the engine: they are of that form, and the same however the work was cut and mixed.
#include "engine/structured/tool_calls.hpp"
#include "tests/engine/harness.hpp"

namespace troupe::engine::testing {
namespace {

using structured::answer_format;
using structured::format_kind;

// Token 1 ends the text; the others are single characters.
constexpr std::string_view alphabet = "  0123456789abcdefghijklmnop{}[]\":,-+.";

std::string text_of(const std::vector<token_id>& tokens) {
  std::string text;
  for (const token_id t : tokens) text += alphabet[t];
  return text;
}

void know_words(engine_options& o) {
  o.vocabulary = [size = o.vocab_size] {
    const token_id ends[] = {end_of_text};
    return std::make_shared<const structured::vocabulary>(
        size,
        [](token_id t) {
          return t == 0 || t >= alphabet.size() ? std::string() : std::string(1, alphabet[t]);
        },
        ends);
  };
}

bool is_of(const answer_format& format, const std::string& text) {
  structured::automaton a(*structured::compile(format));
  structured::work_budget work;
  auto s = a.start(work);
  for (const char c : text) s = a.next(s, static_cast<std::uint8_t>(c), work);
  return a.accepts(s);
}

const answer_format forms[] = {
    {format_kind::regex, "[0-9]{3}(ab|c)+"},
    {format_kind::json_schema,
     R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"array","items":{"enum":["a","bc",7]},"maxItems":5}},"required":["a","b"]})"},
    {format_kind::choice, R"(["abc","abd","b"])"},
    {format_kind::grammar, "root ::= \"[\" (root (\",\" root){0,2})? \"]\""},
    structured::to_format(
        {structured::call_syntax::llama3_json,
         true,
         false,
         {{"fed", R"({"type":"object","properties":{"a":{"type":"boolean"}}})", false},
          {"bog", "", false}}}),
};

std::vector<generation_request> requests() {
  std::vector<generation_request> all;
  for (std::uint64_t id = 1; id <= 16; ++id) {
    auto r = make_request(id, make_prompt(id, 9 + id), 60);
    r.sampling.format = forms[id % std::size(forms)];
    if (id % 3 != 0) {
      r.sampling.temperature = 1.5f;
      r.sampling.seed = id;
    }
    if (id % 5 == 0) r.sampling.repetition_penalty = 1.2f;
    all.push_back(std::move(r));
  }
  return all;
}

std::map<std::uint64_t, std::vector<token_id>> answers(engine_fixture& f,
                                                       const std::vector<generation_request>& all) {
  for (const auto& r : all) {
    const auto added = f.engine->add(r, f.now);
    EXPECT_TRUE(added) << (added ? "" : to_string(added.error()));
  }
  f.run();
  std::map<std::uint64_t, std::vector<token_id>> out;
  for (const auto& r : all) out[raw(r.id)] = f.of(raw(r.id)).ids();
  return out;
}

TEST(format, answers_are_of_the_form_and_do_not_depend_on_the_batch) {
  const auto all = requests();
  std::map<std::uint64_t, std::vector<token_id>> alone;
  int whole = 0;
  for (const auto& r : all) {
    engine_fixture f(64, {}, [](engine_options& o) {
      know_words(o);
      o.speculation.enabled = false;
    });
    alone.merge(answers(f, {r}));
    const auto& end = f.of(raw(r.id)).end;
    ASSERT_TRUE(end);
    const std::string text = text_of(alone[raw(r.id)]);
    if (end->reason == finish_reason::stop) {
      EXPECT_TRUE(is_of(r.sampling.format, text)) << text;
      ++whole;
    }
  }
  EXPECT_GT(whole, 10);
  engine_fixture together(48, {}, [](engine_options& o) {
    know_words(o);
    o.speculation.always = true;
  });
  EXPECT_EQ(answers(together, all), alone);

  // Another node goes on after some tokens.
  engine_fixture other(64, {}, know_words);
  for (auto r : all) {
    const auto& expected = alone[raw(r.id)];
    const std::size_t delivered = expected.size() / 2;
    r.try_number = 1;
    r.output.assign(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(delivered));
    ASSERT_TRUE(other.engine->add(r, other.now));
    other.run();
    const auto rest = other.of(raw(r.id), 1).ids();
    EXPECT_TRUE(std::equal(rest.begin(), rest.end(),
                           expected.begin() + static_cast<std::ptrdiff_t>(delivered),
                           expected.end()))
        << text_of(rest) << " after " << text_of(r.output);
  }
}

TEST(format, what_others_had_remembered_changes_no_answer) {
  auto all = requests();
  for (auto& r : all) r.sampling.format = forms[r.id == request_id{1} ? 3 : raw(r.id) % 4];
  engine_fixture roomy(64, {}, know_words);
  const auto expected = answers(roomy, all);
  // A form's automaton is full after some states, or before every one, and made anew again and again.
  for (const std::size_t bytes : {24 * 1024, 1024, 1}) {
    engine_fixture tight(64, {}, [&](engine_options& o) {
      know_words(o);
      o.format_bytes = bytes;
      o.speculation.always = true;
    });
    EXPECT_EQ(answers(tight, all), expected) << bytes;
  }
}

// A state of a counted repetition lies behind for good, and there may be more of them than are remembered.
TEST(format, an_answer_may_be_longer_than_what_is_remembered_of_its_form) {
  auto r = make_request(1, make_prompt(1, 5), 1500);
  r.sampling.format = {format_kind::regex, "[a-p]{1400}"};
  const auto tight = [](engine_options& o) {
    know_words(o);
    o.format_bytes = 16 * 1024;
  };
  engine_fixture roomy(400, {}, know_words), f(400, {}, tight);
  const auto expected = answers(roomy, {r});
  EXPECT_EQ(answers(f, {r}), expected);
  EXPECT_EQ(f.of(1).tokens.size(), 1400u);
  EXPECT_EQ(f.of(1).end->reason, finish_reason::stop);

  // Another node goes on near the end.
  engine_fixture other(400, {}, tight);
  const std::vector<token_id>& all = expected.at(1);
  r.output.assign(all.begin(), all.begin() + 1390);
  const auto rest = answers(other, {r});
  EXPECT_EQ(rest.at(1), std::vector<token_id>(all.begin() + 1390, all.end()));
}

TEST(format, an_answer_costs_its_neighbours_nothing_but_time) {
  // Those of one form share what is remembered of it; behind a "b" is more than can be followed.
  const answer_format form = {
      format_kind::grammar,
      "root ::= [c-p]{40} | \"b\" [0-9] ((((.{1,50}){1,50}){1,50}){1,50}){1,50}"};
  const auto token = [](char c) { return static_cast<token_id>(alphabet.find(c)); };
  auto harmless = make_request(1, make_prompt(1, 5), 60), harmful = make_request(2, {3, 4}, 60);
  harmless.sampling.format = harmful.sampling.format = form;
  harmful.output = {token('b'), token('1')};
  auto begun = harmless;
  begun.output = {token('c')};
  engine_fixture alone(64, {}, know_words), f(64, {}, know_words);
  const auto expected = answers(alone, {begun}).at(1);
  ASSERT_EQ(expected.size(), 39u);
  // It waits for its first token from a peer while the other one runs.
  ASSERT_TRUE(f.engine->add_remote(harmless, f.now));
  ASSERT_TRUE(f.engine->add(harmful, f.now));
  f.run();
  EXPECT_EQ(f.of(2).end->failure.code, ec::unsupported);
  f.engine->remote_first_token(harmless.id, 0, {0, token('c'), 0, {}}, f.now);
  f.engine->remote_failed(harmless.id, 0, f.now);
  f.run();
  ASSERT_EQ(f.of(1).tokens.size(), 40u);
  const auto ids = f.of(1).ids();
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), ids.begin() + 1));
  EXPECT_EQ(f.of(1).end->reason, finish_reason::stop);
}

TEST(format, guesses_cost_the_answer_nothing_but_time) {
  // What a guess that is wrong leads to has more stacks than anybody could count.
  std::string rules = "root ::= [0-9] root | \"b\" \"c\" a0\n";
  for (int i = 0; i < 60; ++i) {
    const std::string next = " a" + std::to_string(i + 1);
    rules += "a" + std::to_string(i) + " ::=" + next + next + "\n";
  }
  const answer_format form = {format_kind::grammar, rules + "a60 ::= \"x\"?\n"};
  const auto token = [](char c) { return static_cast<token_id>(alphabet.find(c)); };
  int compared = 0;
  for (std::uint64_t seed = 1; seed < 60 && compared < 3; ++seed) {
    auto r = make_request(1, make_prompt(seed, 7), 8);
    r.sampling.format = form;
    engine_fixture plain(64, {}, [](engine_options& o) {
      know_words(o);
      o.speculation.enabled = false;
    });
    const auto expected = answers(plain, {r}).at(1);
    if (plain.of(1).end->reason != finish_reason::length) continue;  // there was a "b"
    engine_fixture f(64, {}, [](engine_options& o) {
      know_words(o);
      o.speculation.always = true;
    });
    ASSERT_TRUE(f.engine->add(r, f.now));
    std::uint64_t checked = 0;
    while (f.engine->has_work()) {
      const auto done = static_cast<std::uint32_t>(f.of(1).tokens.size());
      f.engine->offer_draft(r.id, 0, 7 + done, {token('b'), token('c'), token('0')});
      checked += f.step().draft_rows;
    }
    EXPECT_GT(checked, 3u);
    EXPECT_EQ(f.of(1).ids(), expected);
    EXPECT_EQ(f.of(1).end->reason, finish_reason::length);
    ++compared;
  }
  EXPECT_EQ(compared, 3);
}

TEST(format, a_form_that_needs_too_much_work_is_a_typed_error) {
  engine_fixture f(64, {}, know_words);
  auto r = make_request(1, make_prompt(1, 5), 50);
  r.sampling.ignore_eos = true;
  r.sampling.format = {format_kind::regex, "((((.{1,50}){1,50}){1,50}){1,50}){1,50}"};
  ASSERT_TRUE(f.engine->add(r, f.now));
  f.run();
  EXPECT_EQ(f.of(1).end->failure.code, ec::unsupported);
  r.id = request_id{2};
  r.output.assign(100, static_cast<token_id>(alphabet.find('a')));
  EXPECT_EQ(f.engine->add(r, f.now).error().code, ec::unsupported);
}

TEST(format, an_answer_ends_when_nothing_can_follow) {
  engine_fixture f(16, {}, know_words);
  auto r = make_request(1, make_prompt(1, 5), 50);
  r.sampling.format = {format_kind::choice, R"(["abc"])"};
  r.sampling.ignore_eos = true;
  EXPECT_EQ(text_of(answers(f, {r})[1]), "abc");
  EXPECT_EQ(f.of(1).end->reason, finish_reason::stop);
}

TEST(format, what_cannot_be_followed_is_refused_when_it_is_added) {
  engine_fixture f(16, {}, know_words);
  auto r = make_request(1, make_prompt(1, 5), 8);
  r.sampling.format = {format_kind::regex, "("};
  EXPECT_EQ(f.engine->add(r, f.now).error().code, ec::invalid_argument);
  EXPECT_EQ(f.engine->add_remote(r, f.now).error().code, ec::invalid_argument);
  r.sampling.format = {format_kind::regex, "b+"};
  r.output = {12};  // an a
  EXPECT_EQ(f.engine->add(r, f.now).error().code, ec::invalid_argument);
  r.sampling.format.kind = static_cast<format_kind>(77);
  EXPECT_EQ(f.engine->add(r, f.now).error().code, ec::invalid_argument);
  EXPECT_FALSE(f.engine->has_work());
  engine_fixture without(16);
  r.output.clear();
  r.sampling.format = {format_kind::regex, "b+"};
  EXPECT_EQ(without.engine->add(r, without.now).error().code, ec::unsupported);
}

}  // namespace
}  // namespace troupe::engine::testing
