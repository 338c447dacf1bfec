"""The seeded part of the graph: mathematics > physics, statistics, optimization > finer, in English and Arabic.

    root ── mathematics ─┬─ math-algebra ── math-linear-algebra …
                         ├─ physics ────── physics-quantum …
                         ├─ statistics ─── stats-bayesian ── stats-mcmc …
                         └─ optimization ─ opt-convex …

A topic needs somewhere to belong before anybody has drawn a tree. So a mesh begins with this one: nodes that group
others and train nothing themselves. Each has a name and keywords in two languages; `planner/placing.py` compares topics
with them.

Keywords are chosen to tell a field from daily speech: of a word that both use ("field", "energy", "light") only phrases
stand here ("magnetic field"), and nothing that describes any dataset ("model", "classification", "prediction").

Promises: ids never change once they were released; parents stand before their children.
Not here: writing them (`planner/changes.py` says which are missing). What people renamed, moved or retired stays so.
"""

from __future__ import annotations

import dataclasses

from mesh.messages.graph import ROOT, NodeEvent, NodeState, Specialization

BY = "seeds"
"""Who is named as the author of a seeded node."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seed:
    """One row: id, parent, names, and keywords parted by commas (English) or Arabic commas."""

    id: str
    parent: str
    english: str
    arabic: str
    keywords: str
    arabic_keywords: str

    def node(self) -> Specialization:
        """The node as it is first written."""
        words = [*self.keywords.split(","), *self.arabic_keywords.split("،")]
        return Specialization(
            id=self.id,
            name=self.english,
            names={"ar": self.arabic},
            parent=self.parent,
            keywords=tuple(word.strip() for word in words if word.strip()),
            state=NodeState.SEED,
            event=NodeEvent.SEEDED,
            by=BY,
            why="the graph begins here"
            if not self.parent
            else "a seed: fields that most topics of this kind fall into",
        )


MATHEMATICS = (
    Seed(
        ROOT, "", "everything", "كل شيء",
        "",
        "",
    ),
    Seed(
        "mathematics", ROOT, "mathematics", "الرياضيات",
        "maths, mathematical, theorem, lemma, mathematical proof, conjecture, equation",
        "رياضيات، مبرهنة، برهان، مسألة رياضية، معادلة، حدسية",
    ),
    Seed(
        "math-algebra", "mathematics", "algebra", "الجبر",
        "algebraic, polynomial, group theory, ring theory, galois theory, homomorphism, quadratic equation, roots "
        "of a polynomial",
        "جبري، كثيرة الحدود، كثيرات الحدود، نظرية الزمر، تشاكل، معادلة تربيعية، جذور كثيرة الحدود",
    ),
    Seed(
        "math-linear-algebra", "math-algebra", "linear algebra", "الجبر الخطي",
        "matrix, matrices, vector space, eigenvalue, eigenvector, determinant, linear map, matrix decomposition, "
        "orthogonal",
        "مصفوفة، فضاء متجهي، متجهات، قيمة ذاتية، قيم ذاتية، متجه ذاتي، محدد المصفوفة، تحويل خطي، تعامد",
    ),
    Seed(
        "math-analysis", "mathematics", "real and complex analysis", "التحليل الحقيقي والمركب",
        "calculus, integral, integration by parts, derivative, differentiation, convergence, infinite series, "
        "measure theory, functional analysis, fourier transform, complex numbers",
        "تفاضل، حساب التكامل، مشتقة، اشتقاق، تقارب المتسلسلات، متسلسلة، نظرية القياس، تحليل دالي، تحويل فورييه، "
        "أعداد مركبة",
    ),
    Seed(
        "math-geometry", "mathematics", "geometry", "الهندسة الإقليدية والتفاضلية",
        "geometric, triangle, angle, polygon, euclidean, circle theorem, trigonometry, curvature, differential "
        "geometry",
        "علم الهندسة، مثلث، مثلثات، زوايا المثلث، مضلع، إقليدي، محيط الدائرة، حساب المثلثات، انحناء، إحداثيات",
    ),
    Seed(
        "math-topology", "mathematics", "topology", "الطوبولوجيا",
        "topological, manifold, homology, homotopy, knot theory, compact space, fundamental group",
        "طوبولوجي، متشعب، متعدد الشعب، هومولوجيا، هوموتوبيا، نظرية العقد، فضاء متراص، زمرة أساسية",
    ),
    Seed(
        "math-number-theory", "mathematics", "number theory", "نظرية الأعداد",
        "prime number, divisibility, congruence, modular arithmetic, diophantine, integer factorization, fermat, "
        "riemann hypothesis",
        "أعداد أولية، عدد أولي، قابلية القسمة، تطابق، حساب نمطي، ديوفانتية، أعداد صحيحة، تحليل إلى عوامل، فيرما",
    ),
    Seed(
        "math-combinatorics", "mathematics", "combinatorics and graph theory", "التوافقيات ونظرية البيان",
        "combinatorial, permutation, binomial coefficient, counting problem, graph coloring, vertices, graph edges, "
        "planar graph, generating function, ramsey",
        "توافقيات، تباديل، توافيق، مسألة العد، تلوين البيان، رؤوس، أضلاع البيان، دالة مولدة، رامزي",
    ),
    Seed(
        "math-logic", "mathematics", "logic and set theory", "المنطق ونظرية المجموعات",
        "mathematical logic, propositional, first order logic, axiom, incompleteness, computability, turing "
        "machine, type theory, formal proof",
        "منطق، منطق رياضي، بديهية، بديهيات، عدم الاكتمال، قابلية الحساب، آلة تورنغ، نظرية الأنواع، برهان صوري",
    ),
    Seed(
        "math-differential-equations", "mathematics", "differential equations", "المعادلات التفاضلية",
        "ode, pde, partial differential equation, boundary value, initial condition, laplace transform, dynamical "
        "system, chaos theory, bifurcation",
        "معادلة تفاضلية، معادلات تفاضلية جزئية، شروط حدية، شروط ابتدائية، تحويل لابلاس، نظام ديناميكي، نظرية "
        "الفوضى، تشعب",
    ),
    Seed(
        "math-numerics", "mathematics", "numerical analysis", "التحليل العددي",
        "numerical method, floating point, finite element, finite difference, interpolation, discretization, "
        "rounding error, numerical integration, quadrature",
        "طرق عددية، فاصلة عائمة، عناصر منتهية، فروق منتهية، استيفاء، استكمال داخلي، خطأ التقريب، تكامل عددي",
    ),
)  # fmt: skip

PHYSICS = (
    Seed(
        "physics", "mathematics", "physics", "الفيزياء",
        "physical law, physicist, physical constant, physics experiment",
        "فيزيائي، قوانين فيزيائية، قوانين الطبيعة، تجربة فيزيائية",
    ),
    Seed(
        "physics-mechanics", "physics", "classical mechanics", "الميكانيكا الكلاسيكية",
        "newton, newton laws, velocity, acceleration, angular momentum, friction, pendulum, projectile, torque, "
        "inertia, lagrangian, hamiltonian, rigid body",
        "نيوتن، قوانين نيوتن، سرعة متجهة، تسارع، كمية الحركة، احتكاك، بندول، مقذوف، عزم الدوران، قصور ذاتي، جسم صلب",
    ),
    Seed(
        "physics-quantum", "physics", "quantum mechanics", "ميكانيكا الكم",
        "quantum, wave function, schrodinger, entanglement, superposition, qubit, electron spin, uncertainty "
        "principle, quantum state, hilbert space",
        "كمومي، فيزياء الكم، دالة موجية، شرودنغر، تشابك كمومي، تراكب كمومي، كيوبت، لف مغزلي، مبدأ عدم اليقين",
    ),
    Seed(
        "physics-thermodynamics", "physics", "thermodynamics and statistical physics", "الديناميكا الحرارية",
        "thermodynamic, entropy, ideal gas, heat engine, heat transfer, carnot, boltzmann, thermal equilibrium, "
        "phase transition, enthalpy",
        "ديناميكا حرارية، إنتروبيا، غاز مثالي، محرك حراري، انتقال الحرارة، كارنو، بولتزمان، اتزان حراري، تحول طوري",
    ),
    Seed(
        "physics-electromagnetism", "physics", "electromagnetism", "الكهرومغناطيسية",
        "electromagnetic, electric charge, electric field, magnetic field, maxwell equations, voltage, electric "
        "current, capacitor, coulomb, inductance, electrostatics",
        "كهرومغناطيسي، شحنة كهربائية، مجال كهربائي، مجال مغناطيسي، معادلات ماكسويل، جهد كهربائي، تيار كهربائي، مكثف "
        "كهربائي، كولوم",
    ),
    Seed(
        "physics-optics", "physics", "optics", "البصريات",
        "optical, optical lens, refraction, diffraction, interference pattern, laser beam, polarized light, photon, "
        "wavelength, light rays",
        "عدسات بصرية، انكسار الضوء، حيود، تداخل الضوء، شعاع ليزر، استقطاب الضوء، فوتون، طول موجي، أشعة الضوء",
    ),
    Seed(
        "physics-relativity", "physics", "relativity and gravitation", "النسبية والجاذبية",
        "einstein, spacetime, general relativity, special relativity, black hole, gravitational wave, lorentz, time "
        "dilation, gravity",
        "نسبية، أينشتاين، زمكان، نسبية عامة، نسبية خاصة، ثقب أسود، ثقوب سوداء، موجات ثقالية، تمدد الزمن، قانون "
        "الجاذبية",
    ),
    Seed(
        "physics-astro", "physics", "astrophysics and cosmology", "الفيزياء الفلكية وعلم الكون",
        "astronomy, astronomical, stellar, variable star, galaxy, galaxies, telescope, exoplanet, planetary orbit, "
        "supernova, dark matter, redshift, big bang",
        "فلك، فلكي، أجرام سماوية، نجوم متغيرة، مجرة، مجرات، تلسكوب، كواكب، كوكب خارجي، مستعر أعظم، مادة مظلمة، "
        "انزياح أحمر، انفجار عظيم",
    ),
    Seed(
        "physics-particles", "physics", "particle physics", "فيزياء الجسيمات",
        "quark, higgs boson, collider, hadron, lepton, neutrino, standard model, gluon, muon, elementary particle",
        "جسيمات أولية، كوارك، بوزون هيغز، مصادم، هادرون، لبتون، نيوترينو، نموذج معياري، ميون",
    ),
    Seed(
        "physics-nuclear", "physics", "nuclear physics", "الفيزياء النووية",
        "radioactivity, radioactive decay, nuclear fission, nuclear fusion, isotope, half life, nuclear reactor, "
        "neutron",
        "نشاط إشعاعي، انحلال إشعاعي، انشطار نووي، اندماج نووي، نظائر، عمر النصف، مفاعل نووي، نيوترون",
    ),
    Seed(
        "physics-condensed-matter", "physics", "condensed matter physics", "فيزياء المادة المكثفة",
        "semiconductor, superconductor, superconductivity, crystal lattice, ferromagnetism, band gap, phonon, solid "
        "state",
        "أشباه الموصلات، شبه موصل، موصلية فائقة، شبكة بلورية، بلورات، فجوة الطاقة، فونون، حالة صلبة",
    ),
    Seed(
        "physics-fluids", "physics", "fluid dynamics", "ديناميكا الموائع",
        "fluid, turbulence, turbulent flow, viscosity, navier stokes, laminar flow, reynolds number, aerodynamics, "
        "vortex",
        "مائع، موائع، اضطراب الجريان، لزوجة، نافييه ستوكس، جريان صفحي، عدد رينولدز، ديناميكا هوائية، دوامات الجريان",
    ),
    Seed(
        "physics-acoustics", "physics", "acoustics", "الصوتيات",
        "acoustic, sound wave, vibration, resonance, ultrasound, acoustic frequency, sound pressure",
        "موجة صوتية، موجات صوتية، اهتزازات، رنين صوتي، موجات فوق صوتية، ضغط الصوت",
    ),
    Seed(
        "physics-plasma", "physics", "plasma physics", "فيزياء البلازما",
        "hot plasma, tokamak, ionized gas, magnetic confinement, magnetohydrodynamics, debye length",
        "بلازما، توكاماك، غاز متأين، حصر مغناطيسي، طول ديباي",
    ),
    Seed(
        "physics-geo", "physics", "geophysics", "الجيوفيزياء",
        "earthquake, seismic wave, seismology, seismogram, earth mantle, plate tectonics, volcano, geomagnetic",
        "زلزال، زلازل، موجات زلزالية، صفائح تكتونية، وشاح الأرض، بركان، براكين، مغناطيسية الأرض",
    ),
)  # fmt: skip

STATISTICS = (
    Seed(
        "statistics", "mathematics", "statistics", "الإحصاء",
        "statistical, statistician, variance, standard deviation, quantile, descriptive statistics, correlation "
        "coefficient",
        "إحصائي، إحصائيات، تباين، انحراف معياري، وسط حسابي، إحصاء وصفي، معامل الارتباط، ربيعيات",
    ),
    Seed(
        "stats-probability", "statistics", "probability theory", "نظرية الاحتمالات",
        "probability, random variable, probability distribution, conditional probability, law of large numbers, "
        "central limit theorem, expected value, dice",
        "احتمال، احتمالات، متغير عشوائي، توزيع احتمالي، احتمال شرطي، قانون الأعداد الكبيرة، قيمة متوقعة، حجر النرد",
    ),
    Seed(
        "stats-stochastic-processes", "stats-probability", "stochastic processes", "العمليات العشوائية",
        "stochastic process, markov chain, brownian motion, random walk, martingale, poisson process, stochastic "
        "calculus",
        "عملية عشوائية، سلسلة ماركوف، سلاسل ماركوف، حركة براونية، مشي عشوائي، مارتينجال، عملية بواسون",
    ),
    Seed(
        "stats-bayesian", "statistics", "Bayesian statistics", "الإحصاء البايزي",
        "bayes, bayesian, bayes theorem, bayesian inference, prior distribution, posterior distribution, credible "
        "interval, conjugate prior, hierarchical bayes",
        "بايز، بايزي، مبرهنة بايز، استدلال بايزي، توزيع قبلي، توزيع بعدي، فترة المصداقية",
    ),
    Seed(
        "stats-mcmc", "stats-bayesian", "Monte Carlo methods", "طرق مونت كارلو",
        "monte carlo, mcmc, metropolis hastings, gibbs sampling, importance sampling, particle filter, hamiltonian "
        "monte carlo",
        "مونت كارلو، معاينة غيبس، ميتروبوليس، معاينة بالأهمية، مرشح الجسيمات",
    ),
    Seed(
        "stats-inference", "statistics", "statistical inference", "الاستدلال الإحصائي",
        "hypothesis test, p value, confidence interval, estimator, maximum likelihood, statistical significance, "
        "null hypothesis, t test, sufficient statistic",
        "اختبار الفرضيات، فترة الثقة، مقدر، فرضية صفرية، دلالة إحصائية، إمكان أعظم، قيمة احتمالية، اختبار ت",
    ),
    Seed(
        "stats-regression", "statistics", "regression analysis", "تحليل الانحدار",
        "regression, linear regression, least squares, logistic regression, residuals, covariate, ridge regression, "
        "lasso, generalized linear model, multicollinearity",
        "انحدار، انحدار خطي، مربعات صغرى، انحدار لوجستي، بواقي الانحدار، متغير مفسر، تعدد التداخل الخطي",
    ),
    Seed(
        "stats-time-series", "statistics", "time series", "السلاسل الزمنية",
        "forecast, forecasting, arima, autocorrelation, seasonality, seasonal component, stationarity, kalman "
        "filter, exponential smoothing",
        "سلسلة زمنية، تنبؤ زمني، ارتباط ذاتي، موسمية، تقلبات موسمية، استقرارية، مرشح كالمان، تمهيد أسي",
    ),
    Seed(
        "stats-multivariate", "statistics", "multivariate analysis", "التحليل متعدد المتغيرات",
        "multivariate, principal component, factor analysis, covariance matrix, dimension reduction, cluster "
        "analysis, canonical correlation, discriminant analysis",
        "متعدد المتغيرات، مكونات رئيسية، تحليل عاملي، مصفوفة التغاير، تحليل عنقودي، تقليل الأبعاد، تحليل تمييزي",
    ),
    Seed(
        "stats-experiments", "statistics", "design of experiments", "تصميم التجارب",
        "experimental design, randomized experiment, anova, factorial design, control group, placebo, latin square, "
        "response surface",
        "تجربة عشوائية، تجارب عشوائية، تحليل التباين، مجموعة ضابطة، تصميم عاملي، دواء وهمي، مربع لاتيني",
    ),
    Seed(
        "stats-sampling", "statistics", "sampling and surveys", "المعاينة والمسوح",
        "survey sampling, stratified sample, sample size, census, nonresponse, opinion poll, sampling error, "
        "cluster sampling",
        "معاينة، عينة طبقية، عينة عشوائية، حجم العينة، تعداد السكان، استطلاع الرأي، خطأ المعاينة، مسح بالعينة",
    ),
    Seed(
        "stats-nonparametric", "statistics", "nonparametric statistics", "الإحصاء اللامعلمي",
        "nonparametric, kernel density, rank test, bootstrap, permutation test, wilcoxon, mann whitney, resampling, "
        "empirical distribution",
        "لامعلمي، لا معلمي، كثافة النواة، اختبار الرتب، بوتستراب، ويلكوكسون، إعادة المعاينة، توزيع تجريبي",
    ),
    Seed(
        "stats-causal", "statistics", "causal inference", "الاستدلال السببي",
        "causal, causality, counterfactual, confounder, confounding, propensity score, instrumental variable, "
        "treatment effect, causal graph",
        "سببية، سببي، واقع مضاد، متغير مربك، درجة الميل، متغير أداتي، أثر المعالجة، علاقة سببية",
    ),
    Seed(
        "stats-survival", "statistics", "survival analysis", "تحليل البقاء",
        "survival time, hazard rate, kaplan meier, censoring, cox model, time to event, mortality, life table",
        "زمن البقاء، معدل الخطر، كابلان ماير، نموذج كوكس، وفيات، معدل الوفيات، جدول الحياة، رقابة البيانات",
    ),
    Seed(
        "stats-spatial", "statistics", "spatial statistics", "الإحصاء المكاني",
        "kriging, variogram, geostatistics, spatial autocorrelation, point process, disease mapping, areal data",
        "كريغنغ، إحصاء جغرافي، ارتباط مكاني، ارتباط ذاتي مكاني، عملية نقطية، تباين مكاني",
    ),
    Seed(
        "stats-robust", "statistics", "robust statistics", "الإحصاء المتين",
        "outlier, outliers, m estimator, breakdown point, trimmed mean, median absolute deviation, heavy tailed",
        "قيم شاذة، قيم متطرفة، مقدر متين، نقطة الانهيار، وسط مشذب",
    ),
    Seed(
        "stats-learning", "statistics", "statistical learning theory", "نظرية التعلم الإحصائي",
        "vc dimension, overfitting, cross validation, support vector machine, kernel method, bias variance, "
        "generalization bound, empirical risk, gradient boosting, random forest",
        "فرط التخصيص، تحقق متقاطع، آلة المتجهات الداعمة، طرق النواة، حد التعميم، مخاطرة تجريبية، غابة عشوائية",
    ),
    Seed(
        "stats-biostatistics", "statistics", "biostatistics and epidemiology", "الإحصاء الحيوي وعلم الأوبئة",
        "clinical trial, epidemic, incidence rate, odds ratio, cohort study, relative risk, infection rate, "
        "epidemiological, case control study",
        "تجربة سريرية، تجارب سريرية، وباء، أوبئة، معدل الإصابة، نسبة الأرجحية، دراسة أترابية، خطر نسبي، عدوى",
    ),
)  # fmt: skip

OPTIMIZATION = (
    Seed(
        "optimization", "mathematics", "optimization", "الاستمثال",
        "optimisation, optimize, minimize, maximize, objective function, optimal solution, optimum, constraint",
        "أمثلية، تحسين أمثل، حل أمثل، دالة الهدف، تصغير، تعظيم، قيود المسألة، استمثال",
    ),
    Seed(
        "opt-convex", "optimization", "convex optimization", "الاستمثال المحدب",
        "convex, convex function, convex set, duality, interior point, kkt conditions, semidefinite, lagrange "
        "multiplier, proximal",
        "محدب، دالة محدبة، دوال محدبة، ثنوية، نقطة داخلية، مضاعفات لاغرانج، شروط كاروش",
    ),
    Seed(
        "opt-linear", "optimization", "linear programming", "البرمجة الخطية",
        "linear program, simplex, simplex method, transportation problem, feasible region, linear constraints, "
        "shadow price",
        "برنامج خطي، سمبلكس، طريقة السمبلكس، مسألة النقل، منطقة الحلول، قيود خطية",
    ),
    Seed(
        "opt-integer", "optimization", "integer programming", "البرمجة بالأعداد الصحيحة",
        "mixed integer, milp, branch and bound, cutting plane, knapsack, binary variables, set covering",
        "برمجة صحيحة، تفريع وتحديد، مستويات القطع، حقيبة الظهر، متغيرات ثنائية، متغيرات صحيحة",
    ),
    Seed(
        "opt-combinatorial", "optimization", "combinatorial optimization", "الاستمثال التوافقي",
        "travelling salesman, traveling salesman, vehicle routing, assignment problem, shortest path, network flow, "
        "np hard, approximation algorithm, spanning tree",
        "بائع متجول، مسألة البائع المتجول، توجيه المركبات، مسألة الإسناد، أقصر مسار، تدفق الشبكات، شجرة ممتدة",
    ),
    Seed(
        "opt-stochastic", "optimization", "stochastic and robust optimization", "الاستمثال العشوائي والمتين",
        "stochastic programming, chance constraint, robust optimization, scenario tree, recourse, stochastic "
        "approximation, optimization under uncertainty",
        "برمجة عشوائية، قيود احتمالية، شجرة السيناريوهات، استمثال متين، تقريب عشوائي",
    ),
    Seed(
        "opt-gradient", "optimization", "gradient methods", "طرق التدرج",
        "gradient, gradient descent, stochastic gradient, sgd, adam optimizer, learning rate, conjugate gradient, "
        "quasi newton, line search, backpropagation",
        "تدرج، انحدار التدرج، نزول التدرج، تدرج عشوائي، معدل التعلم، تدرج مترافق، بحث خطي، انتشار عكسي",
    ),
    Seed(
        "opt-global", "optimization", "global and evolutionary optimization", "الاستمثال الشامل والتطوري",
        "genetic algorithm, evolutionary algorithm, simulated annealing, particle swarm, metaheuristic, "
        "differential evolution, tabu search, ant colony",
        "خوارزمية جينية، خوارزميات جينية، خوارزميات تطورية، تلدين محاكى، سرب الجسيمات، مستعمرة النمل، بحث محرم",
    ),
    Seed(
        "opt-bayesian", "optimization", "Bayesian optimization", "الاستمثال البايزي",
        "gaussian process surrogate, acquisition function, expected improvement, hyperparameter, hyperparameter "
        "tuning, black box optimization",
        "ضبط المعاملات الفائقة، معاملات فائقة، دالة الاكتساب، عملية غاوسية، تحسن متوقع",
    ),
    Seed(
        "opt-control", "optimization", "optimal control", "التحكم الأمثل",
        "control theory, pontryagin, trajectory optimization, model predictive control, lqr, feedback control, "
        "linear quadratic regulator",
        "نظرية التحكم، بونترياغين، تحكم تنبؤي، تغذية راجعة، منظم تربيعي خطي، مسار أمثل",
    ),
    Seed(
        "opt-dynamic", "optimization", "dynamic programming and reinforcement learning",
        "البرمجة الديناميكية والتعلم المعزز",
        "bellman equation, markov decision process, value function, policy iteration, reward function, q learning "
        "algorithm, multi armed bandit",
        "معادلة بلمان، تعلم معزز، تعلم تعزيزي، دالة المكافأة، عملية قرار ماركوف، سياسة مثلى، برمجة ديناميكية",
    ),
    Seed(
        "opt-multiobjective", "optimization", "multi-objective optimization", "الاستمثال متعدد الأهداف",
        "multiobjective, pareto, pareto front, conflicting objectives, weighted sum, nondominated, goal programming",
        "باريتو، جبهة باريتو، أهداف متعارضة، متعدد الأهداف، حلول غير مهيمن عليها",
    ),
    Seed(
        "opt-games", "optimization", "game theory", "نظرية الألعاب",
        "nash equilibrium, nash equilibria, zero sum game, payoff matrix, mechanism design, auction theory, "
        "cooperative game, prisoner dilemma",
        "توازن ناش، لعبة صفرية، محصلة صفرية، مصفوفة العوائد، تصميم الآليات، نظرية المزادات، معضلة السجينين",
    ),
    Seed(
        "opt-scheduling", "optimization", "scheduling and operations research", "الجدولة وبحوث العمليات",
        "scheduling, job shop, timetabling, makespan, resource allocation, inventory control, supply chain, "
        "queueing theory",
        "جدولة، جدولة المهام، بحوث العمليات، تخصيص الموارد، إدارة المخزون، سلسلة الإمداد، نظرية الطوابير",
    ),
)  # fmt: skip

SEEDS: tuple[Seed, ...] = (*MATHEMATICS, *PHYSICS, *STATISTICS, *OPTIMIZATION)
"""All of them, parents before their children."""


def nodes() -> tuple[Specialization, ...]:
    """The seeded nodes as they are first written, parents first."""
    return tuple(seed.node() for seed in SEEDS)
