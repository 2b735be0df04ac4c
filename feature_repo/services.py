"""What each model reads. A service is never changed in place: a model that needs more gets a new version."""

from feast import FeatureService
from on_demand import context, pair
from views import item_stats, user_history, user_stats

retrieval_user_v1 = FeatureService(
    name="retrieval_user_v1",
    description="The user tower of the two-tower model.",
    features=[user_stats, user_history],
)
retrieval_item_v1 = FeatureService(
    name="retrieval_item_v1",
    description="The item tower of the two-tower model.",
    features=[item_stats],
)
ranker_v1 = FeatureService(
    name="ranker_v1",
    description="The ranker; affinity features come from its bundle.",
    features=[user_stats, item_stats, context, pair],
)
